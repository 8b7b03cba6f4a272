#pragma once
// Streams and events of the emulated device, and failures on demand.
#include <cstdint>
#include <functional>
#include <memory>

namespace weft::simt {

namespace detail {
struct StreamState;
struct EventState;
}  // namespace detail

/// immediate: work runs when it is enqueued. deferred: it runs when somebody waits for it (synchronize, or a copy to
/// the host), so that a missing wait, or memory given back too early, shows.
enum class StreamMode : std::uint8_t { immediate, deferred };

class Event;

/// Work in order. Streams are independent of each other but for events. Thread-safe; what several OS threads enqueue on
/// one stream runs one after another.
class Stream {
 public:
  Stream();
  ~Stream();  // runs what is left; an error of it goes to stderr
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void enqueue(std::function<void()> work);
  /// Later work of this stream waits for what the event's stream held when the event was last recorded; nothing to wait
  /// for when it never was.
  void wait(const Event& event);
  /// Runs everything enqueued so far, other streams' work where an event asks for it, on the calling thread. An
  /// exception of the work is thrown here (in immediate mode by enqueue), and what was enqueued behind it is dropped;
  /// so is what waits in other streams for an event behind it, with the same exception. Throws std::logic_error when it
  /// is called by work that this stream itself is running or waits for.
  void synchronize();
  bool idle() const;

 private:
  friend class Event;
  std::shared_ptr<detail::StreamState> state_;
};

/// A point in a stream's work. Copies are the same event.
class Event {
 public:
  Event();
  void record(Stream& stream);
  /// Whether all work before the last record has run or was dropped; true when never recorded.
  bool done() const;
  /// Runs what done() asks for; throws the exception of that work, every time when it is called again.
  void synchronize() const;

 private:
  friend class Stream;
  std::shared_ptr<detail::EventState> state_;
};

/// The mode of what is enqueued from now on; work that is deferred already still runs before it. At the start of the
/// process: deferred with the environment variable WEFT_SIMT_STREAMS=deferred, else immediate.
void set_stream_mode(StreamMode mode);
StreamMode stream_mode();
/// All streams, in the order of their creation; the first exception is thrown once all have been tried.
void synchronize_all();

/// The n-th call from now fails (1: the next one); 0 switches it off.
void fail_malloc_at(std::int64_t n);
void fail_launch_at(std::int64_t n);
/// Whether this call is the one to fail; counts it. For device_malloc and launch().
bool malloc_fails();
bool launch_fails();

}  // namespace weft::simt
