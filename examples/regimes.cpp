// regimes: trains one linear model with batches of 1, 32, 256 and all samples side by side
//
//   ./run regimes                                   30 epochs of each
//   ./run regimes --batches 8,16,32,64 --scaling none --lr 0.1
//   ./run regimes --max-lr 10                       without the limit: batches of 256 and more diverge
//
// 1000 samples of 20 features, y = X w + noise. The floor of the loss is known (least squares), so that what is drawn is what a
// training still has to learn: loss - floor = ||X (w - w_best)||² / N. Every regime starts from the same weights and sees the
// same samples; only the number of samples per update differs, and the learning rate with it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <weft/weft.h>

using namespace weft;

namespace {

using Clock = std::chrono::steady_clock;
using Vector = std::vector<double>;
constexpr std::int64_t kSamples = 1000, kFeatures = 20;
constexpr double kNoise = 0.5;
constexpr double kDiverged = 1e12;  // a loss far above any start, and far below where f32 overflows

double squared(const Vector& v) { return std::inner_product(v.begin(), v.end(), v.begin(), 0.0); }

/// The data, and in double on the host what can be known of it beforehand.
struct Problem {
  Tensor x, y;   // [N, D], [N, 1]
  Vector a, b;   // the same in double
  Vector best;   // least squares
  double floor;  // its loss

  explicit Problem(std::uint64_t seed) {
    const data::LinearData data =
        data::make_linear({.samples = kSamples, .features = kFeatures, .noise = kNoise, .seed = seed});
    x = data.x;
    y = data.y;
    a = cast(x, Dtype::f64).to_vector<double>();
    b = cast(y, Dtype::f64).to_vector<double>();
    best = least_squares();
    floor = squared(residuals(best)) / kSamples;
  }

  Vector residuals(const Vector& w) const {
    Vector r(kSamples);
    for (std::int64_t i = 0; i < kSamples; ++i) r[at(i)] = dot(i, w) - b[at(i)];
    return r;
  }
  /// loss(w) - floor.
  double excess(const Vector& w) const {
    Vector difference(kFeatures);
    for (std::size_t d = 0; d < difference.size(); ++d) difference[d] = w[d] - best[d];
    double total = 0;
    for (std::int64_t i = 0; i < kSamples; ++i) total += dot(i, difference) * dot(i, difference);
    return total / kSamples;
  }
  /// The mean gradient at w, and the mean squared distance of a sample's gradient 2 (x·w - y) x from it.
  std::pair<Vector, double> gradients(const Vector& w) const {
    const Vector r = residuals(w);
    Vector mean(kFeatures);
    for (std::int64_t i = 0; i < kSamples; ++i)
      for (std::int64_t d = 0; d < kFeatures; ++d) mean[at(d)] += 2 * r[at(i)] * a[at(i * kFeatures + d)] / kSamples;
    double spread = 0;
    for (std::int64_t i = 0; i < kSamples; ++i)
      for (std::int64_t d = 0; d < kFeatures; ++d) {
        const double difference = 2 * r[at(i)] * a[at(i * kFeatures + d)] - mean[at(d)];
        spread += difference * difference / kSamples;
      }
    return {mean, spread};
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  double dot(std::int64_t row, const Vector& w) const {
    return std::inner_product(w.begin(), w.end(), a.begin() + row * kFeatures, 0.0);
  }
  /// Solves XᵀX w = Xᵀy by Cholesky's decomposition.
  Vector least_squares() const {
    constexpr std::int64_t n = kFeatures;
    Vector l(n * n), w(n);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (std::int64_t r = 0; r < kSamples; ++r) sum += a[at(r * n + i)] * a[at(r * n + j)];
        for (std::int64_t k = 0; k < j; ++k) sum -= l[at(i * n + k)] * l[at(j * n + k)];
        l[at(i * n + j)] = i == j ? std::sqrt(sum) : sum / l[at(j * n + j)];
      }
      for (std::int64_t r = 0; r < kSamples; ++r) w[at(i)] += a[at(r * n + i)] * b[at(r)];
    }
    for (std::int64_t i = 0; i < n; ++i) {  // L z = Xᵀy
      for (std::int64_t k = 0; k < i; ++k) w[at(i)] -= l[at(i * n + k)] * w[at(k)];
      w[at(i)] /= l[at(i * n + i)];
    }
    for (std::int64_t i = n; i-- > 0;) {  // Lᵀ w = z
      for (std::int64_t k = i + 1; k < n; ++k) w[at(i)] -= l[at(k * n + i)] * w[at(k)];
      w[at(i)] /= l[at(i * n + i)];
    }
    return w;
  }
};

/// A number of samples per update, and what came of it.
struct Regime {
  std::string name;
  std::int64_t batch = 0;
  double lr = 0;
  struct Point {
    std::int64_t updates, samples;
    double seconds, excess;
  };
  std::vector<Point> curve = {};
  double noise = 0, predicted_noise = 0;  // E||g_B - g||² / ||g||² at the start
  double noise_scale = 0;  // σ² / ||g||² there: the batch size whose noise is as large as its gradient
  std::int64_t samples = 0;
  std::optional<std::int64_t> until_percent = {};  // updates until a look finds the excess at 1 % of its start
  std::optional<std::int64_t> diverged_at = {};    // the update after which training was given up
};

std::vector<Regime> parse(const std::string& batches) {
  std::vector<Regime> regimes;
  for (std::size_t begin = 0; begin <= batches.size();) {
    const std::size_t end = std::min(batches.find(',', begin), batches.size());
    const std::string word = batches.substr(begin, end - begin);
    const bool number = !word.empty() && word.size() <= 4 && word.find_first_not_of("0123456789") == std::string::npos;
    const std::int64_t batch = word == "full" ? kSamples : number ? std::stoll(word) : 0;
    if (batch < 1 || batch > kSamples)
      throw OptionError(
          fmt::format("--batches must be numbers of samples from 1 to {}, or 'full', with commas between "
                      "them, but one is '{}'",
                      kSamples, word));
    regimes.push_back({.name = word, .batch = batch});
    begin = end + 1;
  }
  return regimes;
}

double parse_rate(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value > 0) || !std::isfinite(value))
    throw OptionError(fmt::format("--max-lr must be a finite number above 0 but is '{}'", text));
  return value;
}

Vector weights_of(const Tensor& weight) { return cast(to(weight.alias(), Device{}), Dtype::f64).to_vector<double>(); }

data::LoaderOptions loader_options(const Regime& regime, const train::Options& options) {
  data::Regime batch = data::MiniBatch{regime.batch};
  if (regime.batch == 1) batch = data::Sgd{};
  if (regime.batch == kSamples) batch = data::FullBatch{};
  return {.batch = batch, .seed = options.seed, .device = options.device};
}

class Comparison {
 public:
  Comparison(const train::Options& options, const Problem& problem, train::LineFile& metrics)
      : options_(options), problem_(problem), metrics_(metrics), dataset_(problem.x, problem.y, "linear") {}

  /// The noise of a batch's gradient at the initial weights, by autograd, over the batches of one epoch.
  void measure_noise(Regime& regime) const {
    nn::Linear model = initial();
    const auto [mean, spread] = problem_.gradients(weights_of(model.weight));
    // Samples are drawn without replacement: the full batch has no noise.
    const double all = kSamples, drawn = static_cast<double>(regime.batch);
    regime.noise_scale = spread / squared(mean);
    regime.predicted_noise = spread / drawn * (all - drawn) / (all - 1) / squared(mean);
    double distance = 0, batches = 0;
    for (data::Update& update : data::Loader(dataset_, loader_options(regime, options_)).epoch(0)) {
      if (update.samples() < regime.batch) break;  // a short last one
      for (const data::MicroBatch& micro : update) update.backward(mse_loss(model(micro.input), micro.target));
      Vector gradient = weights_of(grad(model.weight));
      for (std::size_t d = 0; d < gradient.size(); ++d) gradient[d] = gradient[d] / drawn - mean[d];
      distance += squared(gradient);
      zero_grad(model.weight);
      if (++batches == most_batches()) break;
    }
    regime.noise = distance / batches / squared(mean);
  }

  /// Trains; returns the final weights.
  Vector train(Regime& regime) const {
    nn::Linear model = initial();
    optim::SGD sgd({model.weight}, {.lr = regime.lr});
    const data::Loader loader(dataset_, loader_options(regime, options_));
    double seconds = 0, start_excess = 0;
    std::int64_t updates = 0, next = 1;
    const auto look = [&] {
      const double excess = problem_.excess(weights_of(model.weight));
      if (updates == 0) start_excess = excess;
      if (!regime.until_percent && excess <= start_excess / 100) regime.until_percent = updates;
      regime.curve.push_back({updates, regime.samples, seconds, excess});
      metrics_.append(fmt::format(
          "{{\"event\":\"eval\",\"regime\":\"{}\",\"update\":{},\"samples\":{},\"seconds\":{},"
          "\"excess_loss\":{}}}\n",
          regime.name, updates, regime.samples, seconds, std::isfinite(excess) ? fmt::format("{}", excess) : "null"));
    };
    look();
    const std::int64_t limit = options_.max_updates.value_or(options_.epochs * loader.updates_per_epoch());
    auto start = Clock::now();
    bool last = false;
    for (std::int64_t epoch = 0; epoch < options_.epochs && !last; ++epoch)
      for (data::Update& update : loader.epoch(epoch)) {
        for (const data::MicroBatch& micro : update) {
          auto scope = micro.scope();
          update.backward(mse_loss(model(micro.input), micro.target));
        }
        sgd.step(update.window());
        ++updates;
        regime.samples += update.samples();
        const bool logged = updates % options_.log_every == 0;
        // Reading a loss on a GPU waits for it; elsewhere it costs nothing.
        if ((logged || options_.device.kind != DeviceKind::cuda) && !(update.window().mean_loss() < kDiverged))
          regime.diverged_at = updates;
        last = updates == limit || updates == options_.epochs * loader.updates_per_epoch() || regime.diverged_at ||
               train::StopSignal::received() != 0;
        if (updates == next || last) {  // looking costs time that is not the training's
          seconds += std::chrono::duration<double>(Clock::now() - start).count();
          look();
          next = std::max(updates + 1, updates * 23 / 20);
          start = Clock::now();
        }
        if (logged)
          metrics_.append(
              fmt::format("{{\"event\":\"update\",\"regime\":\"{}\",\"update\":{},\"epoch\":{},\"samples\":{},"
                          "\"loss\":{},\"lr\":{}}}\n",
                          regime.name, updates, epoch, regime.samples, loss_of(update), regime.lr));
        if (last) break;
      }
    return weights_of(model.weight);
  }

 private:
  nn::Linear initial() const {
    nn::manual_seed(options_.seed);
    nn::Linear model(kFeatures, 1, {.bias = false});
    nn::to(model, options_.device);
    return model;
  }
  double most_batches() const { return options_.device.kind == DeviceKind::simt ? 20 : kSamples; }
  static std::string loss_of(const data::Update& update) {
    const double loss = update.window().mean_loss();
    return std::isfinite(loss) ? fmt::format("{}", loss) : "null";
  }

  const train::Options& options_;
  const Problem& problem_;
  train::LineFile& metrics_;
  data::TensorDataset dataset_;
};

/// Excess loss against samples, updates and seconds, and the gradient's noise against the batch size.
std::string picture_script(const std::vector<Regime>& regimes) {
  // Readable on white and on the dark page; the first two are colours that the style sheet adapts.
  const std::vector<std::string> colours{"#1f77b5", "#d62728", "#2ca02c", "#a371d9", "#b5785f", "#d65aae", "#7f7f7f"};
  std::string script =
      "set encoding utf8\nset terminal svg noenhanced size 940,700 font 'sans-serif,12' background rgb 'white'\n"
      "set border 3 linecolor rgb '#808081'\nset tics nomirror scale 0.4\nset grid linecolor rgb '#808082' dashtype "
      "solid\n";
  for (std::size_t r = 0; r < regimes.size(); ++r) {
    script += fmt::format("$r{} << EOD\n", r);
    for (const Regime::Point& p : regimes[r].curve)
      if (p.updates > 0 && p.excess > 0 && std::isfinite(p.excess))
        script += fmt::format("{} {} {} {}\n", p.samples, p.updates, std::max(p.seconds, 1e-7), p.excess);
    script += "EOD\n";
  }
  script += "$noise << EOD\n";
  for (const Regime& r : regimes)
    if (r.noise > 1e-10) script += fmt::format("{} {}\n", r.batch, r.noise);
  script += "EOD\n$predicted << EOD\n";
  const Regime& first = regimes.front();
  const double all = kSamples, unit = first.batch < kSamples
                                          ? first.predicted_noise * static_cast<double>(first.batch) * (all - 1) /
                                                (all - static_cast<double>(first.batch))
                                          : 0;
  for (double b = 1; unit > 0 && b < 0.97 * all; b *= 1.1)
    script += fmt::format("{} {}\n", b, unit / b * (all - b) / (all - 1));
  // Below a ten-millionth nothing but the full batch goes, and only rounding stops it.
  script +=
      "EOD\nset multiplot layout 2,2\nset logscale xy\nset format y '%.0e'\n"
      "set key outside top left horizontal Left reverse samplen 1.6 width 1\n"
      "set yrange [1e-7:]\n";
  const std::vector<std::string> axes{"samples seen", "updates", "seconds of training"};
  for (std::size_t axis = 0; axis < axes.size(); ++axis) {
    script += fmt::format("set xlabel '{}'\nset format x '{}'\nset ylabel 'loss above the floor'\nplot ", axes[axis],
                          axis < 2 ? "%.0s%c" : "%.0e");
    for (std::size_t r = 0; r < regimes.size(); ++r)
      script += fmt::format("{}$r{} using {}:4 with lines lw 2 lc rgb '{}' dt {} title 'batch {}'", r > 0 ? ", " : "",
                            r, axis + 1, colours[r % colours.size()], 1 + r / colours.size(), regimes[r].name);
    script += "\n";
  }
  return script +
         "set xlabel 'samples per update'\nset format x '%.0f'\nset yrange [*:*]\nset ylabel "
         "'noise of the gradient, "
         "|g_B - g|² / |g|²'\n"
         "plot $predicted using 1:2 with lines lw 2 lc rgb '#808081' title 'predicted', "
         "$noise using 1:2 with points pt 7 ps 0.8 lc rgb '#d62728' title 'measured'\nunset multiplot\n";
}

std::string table(const std::vector<Regime>& regimes) {
  std::string text = fmt::format("{:>8}{:>9}{:>9}{:>9}{:>10}{:>12}{:>13}{:>12}{:>12}{:>12}\n", "batch", "lr", "updates",
                                 "samples", "seconds", "samples/s", "until 1 %", "excess", "noise", "predicted");
  for (const Regime& r : regimes) {
    const Regime::Point& end = r.curve.back();
    text += fmt::format("{:>8}{:>9.4g}{:>9}{:>9}{:>10.4f}{:>12}{:>13}{:>12.3g}{:>12.3g}{:>12.3g}\n", r.name, r.lr,
                        end.updates, end.samples, end.seconds,
                        train::short_number(static_cast<double>(end.samples) / std::max(end.seconds, 1e-9)),
                        r.diverged_at     ? "diverged"
                        : r.until_percent ? std::to_string(*r.until_percent)
                                          : "never",
                        end.excess, r.noise, r.predicted_noise);
  }
  return text;
}

int run(int argc, char** argv) {
  std::string batches = "1,32,256,full", scaling = "linear", most = "0.4";
  train::CommandLine line("regimes", "trains one linear model with several batch sizes side by side");
  line.without({"--batch-size", "--accumulate", "--drop-last", "--bn-accumulation", "--optimizer", "--weight-decay",
                "--momentum", "--schedule", "--warmup", "--eval-samples", "--data-dir", "--profile", "--workers",
                "--prefetch", "--resume", "--save-every", "--eval", "--predict"});
  line.options.epochs = 30;
  line.options.lr = 0.01;
  line.text("--batches", batches, "N,...", "samples of one update in each regime; full is all of them");
  line.choice("--scaling", scaling, {"linear", "sqrt", "none"}, "how the rate grows from --lr, that of a batch of 1");
  // Gradient descent diverges beyond the rate 2 / λ, λ the largest curvature, about 2.5 here (the full batch converges at 0.80,
  // not at 0.81). Small batches diverge earlier. From the batch size on where scaling would pass that rate, larger batches
  // cannot be made up for by larger steps.
  line.text("--max-lr", most, "X", "the largest rate that scaling leads to");
  train::Options options = line.parse(argc, argv);
  std::vector<Regime> regimes = parse(batches);
  const double limit = parse_rate(most);
  for (Regime& r : regimes) {
    const auto b = static_cast<double>(r.batch);
    r.lr = std::min(limit, options.lr * (scaling == "linear" ? b : scaling == "sqrt" ? std::sqrt(b) : 1.0));
  }

  const auto start = Clock::now();
  train::RunFolder folder(options.out);
  train::Progress progress(options.json ? stderr : stdout);
  const Problem problem(options.seed);
  folder.open();
  train::LineFile metrics(folder.path() / "metrics.jsonl");
  for (const std::string& notice : options.notices) progress.print(notice);
  if (!folder.moved_to().empty())
    progress.print(fmt::format("an earlier run was moved to {}", folder.moved_to().string()));

  train::Summary summary;
  summary.example = options.example;
  summary.command = options.command;
  summary.device = options.device.str();
  summary.seed = options.seed;
  summary.threads = options.threads;
  summary.config = options.config;
  summary.stopped_by = options.max_updates ? "max_updates" : "epochs";
  summary.parameters = kFeatures;
  summary.train_samples = kSamples;
  const Comparison comparison(options, problem, metrics);
  double seconds = 0;
  {
    const train::StopSignal signals;
    for (Regime& r : regimes) {
      comparison.measure_noise(r);
      const Vector weights = comparison.train(r);
      const Tensor final_weights = Tensor::from_vector(weights, {kFeatures});
      summary.parameters_hash = train::hash_tensors({{"weight." + r.name, final_weights}}, summary.parameters_hash);
      const Regime::Point& end = r.curve.back();
      summary.updates += end.updates;
      summary.samples += end.samples;
      seconds += end.seconds;
      summary.train_loss = problem.floor + end.excess;
      summary.results.push_back(
          {{"batch", r.name},
           {"lr", r.lr},
           {"updates", end.updates},
           {"samples", end.samples},
           {"seconds", end.seconds},
           {"updates_until_1_percent", r.until_percent ? train::Value(*r.until_percent) : train::Value()},
           {"excess_loss", end.excess},
           {"gradient_noise", r.noise},
           {"predicted_noise", r.predicted_noise},
           {"noise_scale", r.noise_scale}});
      if (r.diverged_at)
        summary.notes.push_back(
            fmt::format("batch {} diverged: its loss was beyond {:g} at update {} with the learning rate {:g}", r.name,
                        kDiverged, *r.diverged_at, r.lr));
      if (const int signal = train::StopSignal::received()) {
        summary.stopped_by = signal == SIGTERM ? "SIGTERM" : "SIGINT";
        regimes.resize(summary.results.size());  // those that were begun
        break;
      }
    }
  }
  summary.samples_per_s = static_cast<double>(summary.samples) / std::max(seconds, 1e-9);
  summary.peak_bytes = cpu_memory_stats().peak_bytes;
  summary.commit = train::commit();
  summary.machine = train::machine();
  summary.variants = train::variants();
  summary.variants_hash = train::hash_text(summary.variants);
  const auto svg = train::gnuplot_svg(picture_script(regimes), "regimes", "Loss and gradient noise of each batch size");
  if (svg) {  // a file of its own must name its namespace, a part of a page need not
    std::string file = *svg;
    folder.write("regimes.svg", file.replace(0, 4, "<svg xmlns=\"http://www.w3.org/2000/svg\""));
  }
  summary.wall_s = std::chrono::duration<double>(Clock::now() - start).count();
  folder.write("summary.json", train::to_json(summary));
  train::Report report{
      .title = "Batch sizes side by side",
      .description = fmt::format("{} samples, {} features, floor of the loss {:.4f}; the excess is what a "
                                 "training has left to learn.",
                                 kSamples, kFeatures, problem.floor)};
  if (svg)
    report.figures.push_back(
        {"Loss above the floor, and the noise of the gradient", *svg,
         "The same curves against samples, updates and seconds. Noise: E|g_B - g|²/|g|² over the batches of an epoch "
         "at the initial weights, beside (σ²/B)(N - B)/(N - 1)/|g|²."});
  folder.write("report.html", train::render(report, summary, {}, {}));
  for (const std::string& note : summary.notes) progress.print("note: " + note);
  progress.print(table(regimes));
  progress.print(
      fmt::format("floor of the loss {:.4f}; noise scale σ²/|g|² at the initial weights: {:.1f} samples "
                  "(McCandlish et al. 2018, arXiv:1812.06162)",
                  problem.floor, regimes.front().noise_scale));
  progress.print(fmt::format("results in {}: report.html, regimes.svg, summary.json, metrics.jsonl", options.out));
  if (options.json) std::fputs(train::to_json(summary).c_str(), stdout);
  return train::exit_status(summary);
}

}  // namespace

int main(int argc, char** argv) {
  return train::run_example([&] { return run(argc, argv); });
}
