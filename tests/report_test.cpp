#include "train/report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <gtest/gtest.h>
#include <zlib.h>

#include "tests/support/compare.h"
#include "train/chart.h"
#include "train/png.h"

namespace weft::train {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::size_t count(const std::string& text, const std::string& word) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(word, at)) != std::string::npos; at += word.size()) ++found;
  return found;
}

TEST(LossHistory, KeepsEveryUpdateOfAShortRun) {
  LossHistory history;
  for (int i = 1; i <= 2000; ++i) history.add(i, i);
  EXPECT_EQ(history.stride(), 1);
  ASSERT_EQ(history.points().size(), 2000u);
  EXPECT_EQ(history.points()[41].update, 42);
  EXPECT_EQ(history.points()[41].mean, 42);
}

TEST(LossHistory, ThinsOutALongRunWithoutLosingAny) {
  constexpr std::int64_t kUpdates = 60000;
  LossHistory history;
  for (std::int64_t i = 1; i <= kUpdates; ++i) history.add(i, static_cast<double>(i % 100));
  EXPECT_EQ(history.stride(), 32);
  EXPECT_LE(history.points().size(), 2 * LossHistory::kPoints);
  std::int64_t counted = 0, before = 0;
  double sum = 0;
  for (const LossPoint& point : history.points()) {
    counted += point.count;
    sum += point.mean * static_cast<double>(point.count);
    EXPECT_GT(point.update, before);
    EXPECT_LE(point.low, point.mean);
    EXPECT_GE(point.high, point.mean);
    before = point.update;
  }
  EXPECT_EQ(before, kUpdates);
  EXPECT_EQ(counted, kUpdates);
  // The mean of 0..99; the running means add a rounding error each, far below 1e-9.
  EXPECT_NEAR(sum / kUpdates, 49.5, 1e-9);
}

TEST(LossHistory, CountsWhatIsNotFiniteAside) {
  LossHistory history;
  for (int i = 1; i <= 8000; ++i) history.add(i, i % 4 == 0 ? kNaN : 2.0);
  EXPECT_EQ(history.bad(), 2000);
  for (const LossPoint& point : history.points()) EXPECT_EQ(point.mean, 2.0);
}

TEST(Png, HoldsThePixelsAndValidChecksums) {
  const std::vector<std::uint8_t> pixels{0, 50, 100, 150, 200, 255};
  const std::string file = png(pixels, 2, 3);
  EXPECT_EQ(file.substr(0, 8), "\x89PNG\r\n\x1a\n");
  std::size_t at = 8;
  std::string data;
  const auto u32 = [&](std::size_t from) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(file[from + i]);
    return value;
  };
  while (at < file.size()) {
    const std::size_t length = u32(at);
    const std::string type = file.substr(at + 4, 4);
    const auto* body = reinterpret_cast<const Bytef*>(file.data() + at + 4);
    EXPECT_EQ(u32(at + 8 + length), ::crc32(0, body, static_cast<uInt>(length + 4))) << type;
    if (type == "IHDR") {
      EXPECT_EQ(u32(at + 8), 3u);
      EXPECT_EQ(u32(at + 12), 2u);
    }
    if (type == "IDAT") data = file.substr(at + 8, length);
    at += 12 + length;
  }
  EXPECT_EQ(at, file.size());
  std::vector<std::uint8_t> rows(8);
  uLongf bytes = rows.size();
  ASSERT_EQ(::uncompress(rows.data(), &bytes, reinterpret_cast<const Bytef*>(data.data()), data.size()), Z_OK);
  EXPECT_EQ(rows, (std::vector<std::uint8_t>{0, 0, 50, 100, 0, 150, 200, 255}));
  EXPECT_NE(test::message_of<ShapeError>([&] { png(pixels, 2, 2); }).find("needs 2 x 2 pixels"), std::string::npos);
}

TEST(Png, Base64) {  // the test vectors of RFC 4648, section 10
  const std::string head = "data:image/png;base64,";
  EXPECT_EQ(data_uri(""), head);
  EXPECT_EQ(data_uri("f"), head + "Zg==");
  EXPECT_EQ(data_uri("fo"), head + "Zm8=");
  EXPECT_EQ(data_uri("foo"), head + "Zm9v");
  EXPECT_EQ(data_uri("foob"), head + "Zm9vYg==");
  EXPECT_EQ(data_uri("fooba"), head + "Zm9vYmE=");
  EXPECT_EQ(data_uri("foobar"), head + "Zm9vYmFy");
}

/// A run of `updates` updates with 3 classes and 6 test samples, one of them wrong.
struct Fake {
  explicit Fake(std::int64_t updates, double bad_every = 0) {
    for (std::int64_t i = 1; i <= updates; ++i)
      history.add(i, bad_every > 0 && std::fmod(static_cast<double>(i), bad_every) == 0
                         ? kNaN
                         : 2.0 / std::sqrt(static_cast<double>(i)));
    summary.example = "fake";
    summary.command = "./run fake --out 'a<b'";
    summary.config = {{"norm", std::string("<script>")}, {"lr", 0.001}};
    summary.updates = updates;
    summary.train_loss = 0.5;
    summary.test_loss = 0.75;
    summary.test_accuracy = 5.0 / 6;
    summary.eval_samples = 6;
    summary.epochs = {{.epoch = 0,
                       .updates = updates,
                       .samples = 10 * updates,
                       .complete = true,
                       .seconds = 1,
                       .train_loss = 0.5,
                       .test_loss = 0.75,
                       .test_accuracy = 5.0 / 6}};
    evaluation.samples = 6;
    evaluation.truth = {0, 1, 2, 0, 1, 2};
    evaluation.predicted = {0, 1, 2, 0, 1, 1};
    evaluation.confidence = {0.9f, 0.8f, 0.7f, 0.6f, 0.5f, 0.99f};
    report.title = "A & B";
    report.classes = {"cat", "<dog>", "emu"};
    report.images = Tensor::from_vector(std::vector<std::uint8_t>(6 * 4, 128), {6, 2, 2});
  }
  std::string html() const { return render(report, summary, history, evaluation); }

  LossHistory history;
  Summary summary;
  Evaluation evaluation;
  Report report;
};

/// Whether every element of the page is closed, in order.
std::string unbalanced(const std::string& html) {
  std::vector<std::string> open;
  for (std::size_t at = html.find("</style>"); (at = html.find('<', at)) != std::string::npos;) {
    const std::size_t end = html.find('>', at);
    if (end == std::string::npos) return "an open tag";
    const std::string tag = html.substr(at + 1, end - at - 1);
    at = end;
    if (tag.back() == '/' || tag.rfind("img", 0) == 0 || tag == "/style") continue;
    if (tag[0] != '/') {
      open.push_back(tag.substr(0, tag.find_first_of(" \n\t")));
    } else if (open.empty() || open.back() != tag.substr(1)) {
      if (tag == "/head" || tag == "/html") continue;  // opened before the style sheet
      return tag + " does not close " + (open.empty() ? "anything" : open.back());
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back() + " is never closed";
}

TEST(Report, HoldsEverythingAndNeedsNothingElse) {
  const Fake fake(100);
  const std::string html = fake.html();
  EXPECT_NE(html.find("<h1>A &amp; B</h1>"), std::string::npos);
  EXPECT_NE(html.find("83.33 %"), std::string::npos);
  EXPECT_EQ(count(html, "<img "), 7u) << "six samples, and the mistake again";
  EXPECT_EQ(count(html, "class=\"wrong\""), 2u);
  EXPECT_NE(html.find("<span>is emu</span>"), std::string::npos);
  EXPECT_NE(html.find("99 % sure"), std::string::npos);
  EXPECT_NE(html.find("./run fake --out &#39;a&lt;b&#39;"), std::string::npos);
  EXPECT_EQ(unbalanced(html), "");
  for (const char* forbidden : {"<script", "http://", "https://", "@import", "url("}) {
    std::string rest = html;
    for (std::size_t at; (at = rest.find("http://www.w3.org/")) != std::string::npos;)
      rest.erase(at, 18);  // a namespace
    EXPECT_EQ(rest.find(forbidden), std::string::npos) << forbidden;
  }
}

TEST(Report, EscapesText) {
  EXPECT_EQ(escape_html("<a href='x'>\"&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;&lt;/a&gt;");
  const std::string html = Fake(3).html();
  EXPECT_NE(html.find("&lt;script&gt;"), std::string::npos);
  EXPECT_NE(html.find("&lt;dog&gt;"), std::string::npos);
  EXPECT_EQ(html.find("<dog>"), std::string::npos);
}

TEST(Report, CurvesOfRunsOfAnyLength) {
  if (!gnuplot_found()) GTEST_SKIP() << "needs gnuplot";
  for (const std::int64_t updates : {1, 2, 41, 1407, 60000}) {
    const std::string html = Fake(updates).html();
    EXPECT_EQ(count(html, "<svg "), 2u) << updates;
    EXPECT_EQ(count(html, "nan"), 0u) << updates;
    EXPECT_EQ(unbalanced(html), "") << updates;
    EXPECT_LT(html.size(), 400000u) << updates;
    EXPECT_EQ(count(html, "id=\"loss_canvas\""), 1u) << "ids must differ between the drawings of a page";
  }
}

TEST(Report, LossesThatAreNotFinite) {
  const std::string some = Fake(500, 7).html();
  const std::string all = Fake(500, 1).html();
  EXPECT_EQ(unbalanced(all), "");
  if (!gnuplot_found()) GTEST_SKIP() << "needs gnuplot";
  EXPECT_NE(some.find(">not finite<"), std::string::npos);
  EXPECT_EQ(count(some, "<svg "), 2u);
  EXPECT_EQ(count(all, "<svg "), 1u) << "no loss to draw, but the accuracy";
}

TEST(Report, ARunWithNothingToShow) {
  const std::string html = render({}, {}, {}, {});
  EXPECT_EQ(unbalanced(html), "");
  EXPECT_EQ(count(html, "<svg "), 0u);
  EXPECT_EQ(count(html, "<img "), 0u);
}

TEST(Report, FiguresAndResultsOfARunWithoutEpochs) {
  Summary summary;
  summary.results = {{{"batch <b>", std::string("1")}, {"excess", 0.123456}, {"until", std::int64_t{7}}},
                     {{"batch <b>", std::string("full")}, {"excess", kNaN}, {"until", {}}}};
  Report report;
  report.figures = {{.title = "A & B", .svg = "<svg class=\"chart\"></svg>", .caption = "x < y"}};
  const std::string html = render(report, summary, {}, {});
  EXPECT_EQ(unbalanced(html), "");
  EXPECT_EQ(count(html, "<svg class=\"chart\"></svg>"), 1u);
  EXPECT_NE(html.find("<h2>A &amp; B</h2>"), std::string::npos);
  EXPECT_NE(html.find("x &lt; y"), std::string::npos);
  EXPECT_NE(html.find("<th>batch &lt;b&gt;</th><th>excess</th><th>until</th>"), std::string::npos);
  EXPECT_NE(html.find("<td>1</td><td>0.1235</td><td>7</td>"), std::string::npos);
  EXPECT_NE(html.find("<td>full</td><td>–</td><td>–</td>"), std::string::npos) << "not finite, and none";
  EXPECT_EQ(html.find("<h2>Epochs</h2>"), std::string::npos) << "no table of epochs without any";
}

TEST(Report, RefusesImagesThatDoNotFit) {
  Fake fake(3);
  fake.report.images = Tensor::from_vector(std::vector<std::uint8_t>(5 * 4, 128), {5, 2, 2});
  EXPECT_NE(test::message_of<ShapeError>([&] { fake.html(); }).find("for each of the 6 evaluated samples"),
            std::string::npos);
}

TEST(Chart, AFailingScriptGivesNone) { EXPECT_FALSE(gnuplot_svg("plot nonsense(\n", "x", "y").has_value()); }

}  // namespace
}  // namespace weft::train
