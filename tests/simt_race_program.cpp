// A kernel whose threads race on memory that the emulator does not see. In a build with -fsanitize=thread TSan reports
// it, since each CUDA thread is a thread to it and only barriers order them, and the program ends with TSan's exit
// status (66); with the argument "ordered" a barrier stands between, and it must end with 0. Other builds have nothing
// to say: 0.
#include <cstdio>
#include <cstring>

#include "simt/runtime.h"

namespace {

int plain = 0;

void race(bool ordered) {
  using namespace weft::simt;
  __syncthreads();
  if (threadIdx.x == 5) plain = 1;
  if (ordered) __syncthreads();
  if (threadIdx.x == 70) plain += 1;
  // Thread 5 is here before thread 70 has left the first barrier. That orders nothing.
  __syncthreads();
}

}  // namespace

int main(int count, char** arguments) {
  const bool ordered = count > 1 && std::strcmp(arguments[1], "ordered") == 0;
  weft::simt::LaunchConfig config;
  config.kernel = "race";
  config.block = {128, 1, 1};
  weft::simt::run(config, [ordered] { race(ordered); });
  std::printf("%d\n", plain);
  return 0;
}
