#pragma once
// Pictures inside a page.
#include <cstdint>
#include <span>
#include <string>

namespace weft::train {

/// A grey picture, row by row, 0 = black, as a PNG file.
/// Errors: ShapeError unless pixels has height * width entries and neither is 0.
std::string png(std::span<const std::uint8_t> pixels, int height, int width);
/// "data:image/png;base64,..." for an `<img>`.
std::string data_uri(const std::string& png);

}  // namespace weft::train
