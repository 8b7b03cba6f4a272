#pragma once
// A memory of the last few values that were computed.
#include <cstddef>
#include <exception>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

namespace weft::data {

/// Values by key, at most `keep` of them: the one that was asked for longest ago goes first. A value is made once, by the
/// first thread that asks; others that ask meanwhile wait for it. An exception reaches all of them, and is not kept.
///   make() may use parallel_chunks: a thread that waits here never holds up one that makes.
template <class Key, class Value>
class Recent {
 public:
  explicit Recent(std::size_t keep) : keep_(keep) {}

  template <class Make>
  std::shared_ptr<const Value> get(const Key& key, Make&& make) {
    std::promise<std::shared_ptr<const Value>> promise;
    {
      std::unique_lock lock(mutex_);
      for (auto entry = entries_.begin(); entry != entries_.end(); ++entry)
        if (entry->first == key) {
          entries_.splice(entries_.begin(), entries_, entry);
          const Future future = entry->second;
          lock.unlock();
          return future.get();
        }
      entries_.emplace_front(key, promise.get_future().share());
      if (entries_.size() > keep_) entries_.pop_back();
    }
    try {
      std::shared_ptr<const Value> value = std::make_shared<const Value>(make());
      promise.set_value(value);
      return value;
    } catch (...) {
      promise.set_exception(std::current_exception());
      const std::lock_guard lock(mutex_);
      entries_.remove_if([&](const auto& entry) { return entry.first == key; });
      throw;
    }
  }

 private:
  using Future = std::shared_future<std::shared_ptr<const Value>>;
  std::size_t keep_;
  std::mutex mutex_;
  std::list<std::pair<Key, Future>> entries_;
};

}  // namespace weft::data
