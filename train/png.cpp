#include "train/png.h"

#include <vector>

#include <zlib.h>

#include "tensor/error.h"

namespace weft::train {
namespace {

void put_u32(std::string& out, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 0xffu);
}

void put_chunk(std::string& out, const std::string& type, const std::string& data) {
  put_u32(out, static_cast<std::uint32_t>(data.size()));
  const std::string body = type + data;
  out += body;
  put_u32(out, static_cast<std::uint32_t>(
                   ::crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()))));
}

}  // namespace

// Source: W3C, "Portable Network Graphics (PNG) Specification (Second Edition)", 2003.
std::string png(std::span<const std::uint8_t> pixels, int height, int width) {
  require<ShapeError>(
      height > 0 && width > 0 && pixels.size() == static_cast<std::size_t>(height) * static_cast<std::size_t>(width),
      "png", "needs {} x {} pixels, at least one, but has {}", height, width, pixels.size());
  const auto columns = static_cast<std::size_t>(width);
  std::string rows;  // each behind a byte that names its filter: 0, none
  for (std::size_t y = 0; y < static_cast<std::size_t>(height); ++y) {
    rows += '\0';
    rows.append(reinterpret_cast<const char*>(pixels.data()) + y * columns, columns);
  }
  uLongf packed_bytes = ::compressBound(static_cast<uLong>(rows.size()));
  std::string packed(packed_bytes, '\0');
  const int status = ::compress2(reinterpret_cast<Bytef*>(packed.data()), &packed_bytes,
                                 reinterpret_cast<const Bytef*>(rows.data()), static_cast<uLong>(rows.size()), 9);
  require(status == Z_OK, "png", "zlib must compress the pixels but returned {}", status);
  packed.resize(packed_bytes);

  std::string header;
  put_u32(header, static_cast<std::uint32_t>(width));
  put_u32(header, static_cast<std::uint32_t>(height));
  header += std::string("\x08\0\0\0\0", 5);  // 8 bits, grey, deflate, standard filters, not interlaced
  std::string file = "\x89PNG\r\n\x1a\n";
  put_chunk(file, "IHDR", header);
  put_chunk(file, "IDAT", packed);
  put_chunk(file, "IEND", "");
  return file;
}

std::string data_uri(const std::string& png) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text = "data:image/png;base64,";
  for (std::size_t i = 0; i < png.size(); i += 3) {
    std::uint32_t bits = 0;
    for (std::size_t j = 0; j < 3; ++j)
      bits = bits << 8 | (i + j < png.size() ? static_cast<unsigned char>(png[i + j]) : 0u);
    for (std::size_t j = 0; j < 4; ++j)
      text += i + j <= png.size() ? kDigits[bits >> (18 - 6 * j) & 63u] : '=';  // j digits need j bytes
  }
  return text;
}

}  // namespace weft::train
