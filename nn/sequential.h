#pragma once
#include <memory>
#include <string>
#include <vector>

#include "nn/module.h"

namespace weft::nn {

/// Modules called one after the other. Holds any mix of structs that have operator()(const Tensor&) and visit().
///   nn::Sequential model{nn::Flatten{}, nn::Linear{784, 256}, nn::ReLU{}, nn::Linear{256, 10}};
/// Parts are named by position: "1.weight". Movable; clone() copies deeply.
class Sequential {
 public:
  Sequential() = default;
  template <class... Modules>
  requires(sizeof...(Modules) > 0 && !(std::is_same_v<std::remove_cvref_t<Modules>, Sequential> &&
                                       ...)) explicit Sequential(Modules&&... modules) {
    (push(std::forward<Modules>(modules)), ...);
  }

  template <class M>
  void push(M module) {
    parts_.push_back(std::make_unique<Part<M>>(std::move(module)));
  }
  std::size_t size() const { return parts_.size(); }

  Tensor operator()(const Tensor& x) {
    Tensor y = x;
    for (auto& part : parts_) y = part->call(y);
    return y;
  }
  void visit(Visitor& v) {
    for (std::size_t i = 0; i < parts_.size(); ++i) v(std::to_string(i), *parts_[i]);
  }

  std::vector<Tensor> parameters() { return nn::parameters(*this); }
  NamedTensors named_parameters() { return nn::named_parameters(*this); }
  NamedTensors state_dict() { return nn::state_dict(*this); }
  void load_state_dict(const NamedTensors& state) { nn::load_state_dict(*this, state); }
  void train() { nn::train(*this); }
  void eval() { nn::eval(*this); }
  void to(Device device) { nn::to(*this, device); }
  Sequential clone() const {
    Sequential copy;
    for (const auto& part : parts_) copy.parts_.push_back(part->clone());
    return copy;
  }

 private:
  struct AnyPart {
    virtual ~AnyPart() = default;
    virtual Tensor call(const Tensor& x) = 0;
    virtual void visit(Visitor& v) = 0;
    virtual std::unique_ptr<AnyPart> clone() const = 0;
  };
  template <class M>
  struct Part final : AnyPart {
    explicit Part(M module) : module(std::move(module)) {}
    Tensor call(const Tensor& x) override { return module(x); }
    void visit(Visitor& v) override { module.visit(v); }
    std::unique_ptr<AnyPart> clone() const override {
      if constexpr (std::is_copy_constructible_v<M>)
        return std::make_unique<Part>(nn::clone(module));
      else
        return std::make_unique<Part>(module.clone());
    }
    M module;
  };
  std::vector<std::unique_ptr<AnyPart>> parts_;
};

}  // namespace weft::nn
