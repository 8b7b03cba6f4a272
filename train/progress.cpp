#include "train/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include <sys/ioctl.h>
#include <unistd.h>

#include <fmt/core.h>

namespace weft::train {
namespace {

constexpr auto kInterval = std::chrono::milliseconds(250);
constexpr int kTailColumns = 52;     // of " 100%  loss 12.3456  999k samples/s  10:00:00 left"
constexpr double kSmoothing = 0.05;  // weight of a new loss in the one shown

int columns(std::FILE* out) {
  winsize size{};
  return ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string short_number(double value) {
  if (!std::isfinite(value)) return "-";
  const char* suffix = "";
  for (const char* larger : {"k", "M", "G", "T"}) {
    if (std::fabs(value) < 999.5) break;
    value /= 1000;
    suffix = larger;
  }
  const double size = std::fabs(value);
  if (*suffix == '\0' && value == std::floor(value)) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}f}{}", value, size < 9.995 ? 2 : size < 99.95 ? 1 : 0, suffix);
}

std::string short_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds > 1e9) return "-";
  if (seconds < 9.95) return fmt::format("{:.1f} s", std::max(seconds, 0.0));
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string short_bytes(std::int64_t bytes) {
  auto value = static_cast<double>(bytes);
  const char* unit = "B";
  for (const char* larger : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = larger;
  }
  return fmt::format("{:.{}f} {}", value, *unit == 'B' || value >= 100 ? 0 : 1, unit);
}

Progress::Progress(std::FILE* out) : out_(out) {
  const char* kind = std::getenv("TERM");
  terminal_ = ::isatty(::fileno(out)) == 1 && kind != nullptr && std::string_view(kind) != "dumb";
}

Progress::~Progress() { finish(); }

void Progress::start(std::int64_t epochs, std::int64_t total_samples, std::int64_t done) {
  done_before_ = done;
  epochs_ = epochs;
  total_samples_ = total_samples;
  start_ = Clock::now();
  next_draw_ = start_ + kInterval;
}

void Progress::take_loss(double loss) {
  // A NaN is shown while it lasts, but must not stay in the mean.
  loss_ = loss_ && std::isfinite(*loss_) && std::isfinite(loss) ? *loss_ + kSmoothing * (loss - *loss_) : loss;
}

void Progress::draw(std::int64_t epoch, std::int64_t samples, Clock::time_point now) {
  next_draw_ = now + kInterval;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = static_cast<double>(samples - done_before_) / std::max(seconds, 1e-9);
  const double done = total_samples_ > 0 ? static_cast<double>(samples) / static_cast<double>(total_samples_) : 0;
  const double left = static_cast<double>(total_samples_ - samples) / std::max(rate, 1e-9);

  const std::string head = fmt::format("epoch {}/{} ", epoch + 1, epochs_);
  const std::string tail =
      fmt::format(" {:3.0f}%  {}{} samples/s  {} left", 100 * done, loss_ ? fmt::format("loss {:.4f}  ", *loss_) : "",
                  short_number(rate), short_duration(left));
  const int room = columns(out_) - 1;
  // The bar keeps its width although the numbers behind it do not.
  const int width = std::clamp(room - static_cast<int>(head.size()) - kTailColumns - 2, 0, 30);
  std::string line = head;
  if (width >= 5) {
    const auto filled = static_cast<std::size_t>(std::clamp(done, 0.0, 1.0) * width);
    line += '[';
    line.append(filled, '=').append(static_cast<std::size_t>(width) - filled, ' ');
    line += ']';
  }
  line += tail;
  if (static_cast<int>(line.size()) > room) line.resize(static_cast<std::size_t>(std::max(room, 0)));
  fmt::print(out_, "\r\x1b[K{}", line);
  std::fflush(out_);
  drawn_ = true;
}

void Progress::pause() { paused_ = Clock::now(); }

void Progress::resume() { start_ += Clock::now() - paused_; }

void Progress::print(const std::string& line) {
  finish();
  fmt::print(out_, "{}\n", line);
  std::fflush(out_);
}

void Progress::finish() {
  if (drawn_) {
    fmt::print(out_, "\r\x1b[K");
    std::fflush(out_);
  }
  drawn_ = false;
}

}  // namespace weft::train
