#pragma once
// The emulated device's memory. A device pointer is an address that no code may touch: the pages behind it are never
// readable. The bytes lie elsewhere, at a fixed distance, where only load(), store() and the copies below reach them.
// So host code that touches device memory, and a kernel that goes around load() and store(), fault at once with a
// message that names the allocation. A debugger is not bound by that: gdb prints device pointers like any others.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "simt/site.h"

namespace weft::simt {

struct Allocation {
  const void* address = nullptr;  // device pointer, 256-byte aligned
  std::size_t bytes = 0;
  std::uint64_t number = 0;  // counts allocations since the start of the process, from 1
  bool live = true;
};

struct MemoryStats {
  std::int64_t current_bytes = 0;  // requested and not yet freed
  std::int64_t peak_bytes = 0;     // highest current_bytes since the start or the last reset_peak_bytes()
  std::int64_t allocations = 0;    // live ones
};

/// `bytes` bytes of device memory, every byte 0xFF (a NaN in every floating type); nullptr when the device is full or a
/// failpoint says so. At least 256 unaddressable bytes follow, and freed addresses are used again as late as possible.
/// Thread-safe, like everything here. 0 bytes give nullptr. Throws std::runtime_error when the process has no address
/// space for a device at all.
void* device_malloc(std::size_t bytes);
/// Gives a block back; nothing happens for nullptr. Throws std::invalid_argument for a pointer that device_malloc did
/// not return or that is free.
void device_free(void* address);

/// The allocation that holds `address`, live or freed; a null address when none does.
Allocation find_allocation(const void* address);
/// In order of their numbers.
std::vector<Allocation> live_allocations();
MemoryStats memory_stats();
void reset_peak_bytes();
/// An upper limit for current_bytes; 0 for the usual one, three quarters of the machine's memory (and never more than
/// the arena, 32 GiB of addresses where the process may have them).
void set_memory_limit(std::int64_t bytes);

/// Copies of whole ranges. Throws std::invalid_argument for a host pointer in the place of a device pointer or the
/// other way round, std::out_of_range for device memory that does not lie within one live allocation. 0 bytes do
/// nothing.
void copy_to_device(void* device, const void* host, std::size_t bytes);
void copy_to_host(void* host, const void* device, std::size_t bytes);
void copy_on_device(void* to, const void* from, std::size_t bytes);  // the ranges may overlap
void fill_bytes(void* device, unsigned char value, std::size_t bytes);

/// Whether the address lies in the arena of device memory.
bool is_device_address(const void* address);
/// Where the byte behind a device pointer really is: for debuggers and the emulator itself. nullptr for other
/// addresses.
void* host_view(const void* device);

/// One access by a running kernel: checked against the allocations, counted, and translated to where the bytes are.
/// Faults (thrown, see fault.h): global_bounds, global_freed, global_host_pointer, global_misaligned. Outside a kernel
/// the same findings are a std::out_of_range.
void* global_access(const void* address, std::size_t bytes, std::size_t alignment, Access access, const Site& site);

namespace detail {

struct NearestAllocation {
  Allocation allocation;           // a null address when there is none
  std::uint64_t offset_bytes = 0;  // of the address asked for; may lie in the fence behind the allocation
};
/// Takes no lock and allocates nothing: for the signal handler.
NearestAllocation nearest_allocation(const void* address);
/// Whether the address is in the window through which the emulator itself reaches device memory.
bool is_device_view(const void* address);

}  // namespace detail

}  // namespace weft::simt
