#pragma once
// What a person sees while a model trains.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

namespace weft::train {

/// On a terminal a bar that is redrawn a few times per second, elsewhere nothing but the lines printed.
class Progress {
 public:
  /// Draws to `out`; as a bar only when that is a terminal.
  explicit Progress(std::FILE* out);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Starts counting towards that many samples, of which `done` were done before.
  void start(std::int64_t epochs, std::int64_t total_samples, std::int64_t done = 0);
  /// `samples` were done in all; `loss` when it was read. Costs a clock reading at the most.
  void advance(std::int64_t epoch, std::int64_t samples, std::optional<double> loss) {
    if (!terminal_) return;
    if (loss) take_loss(*loss);
    const auto now = Clock::now();
    if (now >= next_draw_) draw(epoch, samples, now);
  }
  /// The time between the two, an evaluation's, does not count for rate and remaining time.
  void pause();
  void resume();
  /// Prints a line that stays; the bar makes room for it.
  void print(const std::string& line);
  /// Removes the bar.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void take_loss(double loss);
  void draw(std::int64_t epoch, std::int64_t samples, Clock::time_point now);

  std::FILE* out_;
  bool terminal_ = false;
  bool drawn_ = false;
  std::int64_t epochs_ = 0, total_samples_ = 0, done_before_ = 0;
  std::optional<double> loss_;  // smoothed
  Clock::time_point start_, paused_, next_draw_;
};

/// "812", "31.2k", "4.05M"; "-" when it is not finite.
std::string short_number(double value);
/// "0.4 s", "42 s", "3:07", "2:05:09"; "-" when it is not finite.
std::string short_duration(double seconds);
/// "812 B", "31.2 KiB", "4.05 MiB".
std::string short_bytes(std::int64_t bytes);

}  // namespace weft::train
