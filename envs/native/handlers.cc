// XLA custom calls over the operations. Shapes are the caller's business (envs/calls.py).
//
// The calls are made with vmap_method="expand_dims": the leading dimensions of the results are the batch, those of an
// operand are the same or, where it is shared, 1.
#include "handlers.h"

#include <xla/ffi/api/ffi.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "camera.h"
#include "operations.h"

namespace gps {
namespace {

namespace ffi = xla::ffi;

// The rows of each operand that the simulations of a batch use.
class Batch {
 public:
  // `codes`: a result of one number per simulation.
  explicit Batch(ffi::Result<ffi::AnyBuffer>& codes)
      : dims_(codes->dimensions().begin(), codes->dimensions().end()), n(codes->element_count()) {}

  // The operand whose rows end in `trailing` dimensions.
  template <typename T>
  Rows<T> Operand(const ffi::AnyBuffer& buffer, size_t trailing) {
    const auto dims = buffer.dimensions();
    const size_t leading = dims.size() - trailing;
    size_t size = 1;
    for (size_t i = leading; i < dims.size(); ++i) size *= dims[i];
    const bool own = leading == dims_.size() && std::equal(dims_.begin(), dims_.end(), dims.begin());
    if (own) return {buffer.typed_data<T>(), size, nullptr};
    std::vector<int>& index = indices_.emplace_back(n, 0);
    for (int i = 0; i < n; ++i) {
      int rest = i, stride = 1;
      for (size_t k = leading; k-- > 0; rest /= dims_[k], stride *= dims[k]) {
        if (dims[k] > 1) index[i] += rest % dims_[k] * stride;
      }
    }
    return {buffer.typed_data<T>(), size, index.data()};
  }

 private:
  const std::vector<int64_t> dims_;
  std::deque<std::vector<int>> indices_;

 public:
  const int n;
};

ffi::Error Check(const std::shared_ptr<Engine>& engine) {
  if (!engine) {
    return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                      "the MuJoCo model of this compiled program has been freed: keep its Engine alive");
  }
  if (Forked()) {
    return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                      "the MuJoCo engine was used in a process made by fork(), where its threads do not exist: "
                      "use multiprocessing's 'spawn' start method");
  }
  return ffi::Error::Success();
}

ffi::Error Result(const std::string& error) {
  return error.empty() ? ffi::Error::Success()
                       : ffi::Error(ffi::ErrorCode::kInternal, "MuJoCo: " + error);
}

// Calls run(T{}) for the buffers' element type.
template <typename F>
ffi::Error WithType(const ffi::AnyBuffer& buffer, F run) {
  try {
    if (buffer.element_type() == ffi::DataType::F64) return Result(run(double{}));
    if (buffer.element_type() == ffi::DataType::F32) return Result(run(float{}));
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, error.what());
  }
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "states must be float32 or float64");
}

template <typename T>
T* Out(ffi::Result<ffi::AnyBuffer>& buffer) { return buffer->typed_data<T>(); }
using Ret = ffi::Result<ffi::AnyBuffer>;

ffi::Error StepImpl(int64_t id, int64_t nstep, ffi::AnyBuffer x, ffi::AnyBuffer u, ffi::AnyBuffer input,
                    Ret x_next, Ret status) {
  auto engine = Find(id);
  if (auto error = Check(engine); error.failure()) return error;
  return WithType(x, [&](auto zero) {
    using T = decltype(zero);
    Batch batch(status);
    return Step<T>(*engine, batch.n,
                   {engine.get(), int(nstep), batch.Operand<T>(x, 1), batch.Operand<T>(u, 1),
                    batch.Operand<T>(input, 1), Out<T>(x_next), Out<int32_t>(status)});
  });
}

ffi::Error SenseImpl(int64_t id, ffi::AnyBuffer x, ffi::AnyBuffer u, ffi::AnyBuffer input, Ret y, Ret status) {
  auto engine = Find(id);
  if (auto error = Check(engine); error.failure()) return error;
  return WithType(x, [&](auto zero) {
    using T = decltype(zero);
    Batch batch(status);
    return Sense<T>(*engine, batch.n,
                    {engine.get(), batch.Operand<T>(x, 1), batch.Operand<T>(u, 1), batch.Operand<T>(input, 1),
                     Out<T>(y), Out<int32_t>(status)});
  });
}

ffi::Error LinearizeImpl(int64_t id, int64_t nstep, double eps, bool centered, ffi::AnyBuffer x, ffi::AnyBuffer u,
                         ffi::AnyBuffer input, Ret A, Ret B, Ret C, Ret D, Ret status) {
  auto engine = Find(id);
  if (auto error = Check(engine); error.failure()) return error;
  return WithType(x, [&](auto zero) {
    using T = decltype(zero);
    Batch batch(status);
    return Linearize<T>(*engine, batch.n,
                        {engine.get(), int(nstep), eps, centered, batch.Operand<T>(x, 1), batch.Operand<T>(u, 1),
                         batch.Operand<T>(input, 1), Out<T>(A), Out<T>(B), Out<T>(C), Out<T>(D),
                         Out<int32_t>(status)});
  });
}

ffi::Error RolloutImpl(int64_t id, int64_t nstep, ffi::AnyBuffer x0, ffi::AnyBuffer xs_ref, ffi::AnyBuffer us_ref,
                       ffi::AnyBuffer K, ffi::AnyBuffer noise, ffi::AnyBuffer input, Ret xs, Ret us, Ret ys,
                       Ret steps, Ret status) {
  auto engine = Find(id);
  if (auto error = Check(engine); error.failure()) return error;
  auto dims = us_ref.dimensions();
  const int horizon = static_cast<int>(dims[dims.size() - 2]);
  return WithType(x0, [&](auto zero) {
    using T = decltype(zero);
    Batch batch(status);
    return Rollout<T>(*engine, batch.n,
                      {engine.get(), int(nstep), horizon, batch.Operand<T>(x0, 1), batch.Operand<T>(xs_ref, 2),
                       batch.Operand<T>(us_ref, 2), batch.Operand<T>(K, 3), batch.Operand<T>(noise, 2),
                       batch.Operand<T>(input, 1), Out<T>(xs), Out<T>(us), Out<T>(ys), Out<int32_t>(steps),
                       Out<int32_t>(status), nullptr});
  });
}

// A result that nobody asked for has no elements.
template <typename U>
U* Wanted(Ret& buffer) { return buffer->element_count() ? buffer->typed_data<U>() : nullptr; }

ffi::Error RenderImpl(int64_t id, int64_t number, ffi::AnyBuffer x, ffi::AnyBuffer input, Ret rgb, Ret depth, Ret ids,
                      Ret status) {
  auto engine = Find(id);
  if (auto error = Check(engine); error.failure()) return error;
  const Camera* camera = engine->FindCamera(number);
  if (!camera) return ffi::Error(ffi::ErrorCode::kInvalidArgument, "this engine has no camera of that number");
  return WithType(x, [&](auto zero) {
    using T = decltype(zero);
    Batch batch(status);
    return Render<T>(*engine, batch.n,
                     {engine.get(), camera, batch.Operand<T>(x, 1), batch.Operand<T>(input, 1), Wanted<uint8_t>(rgb),
                      Wanted<float>(depth), Wanted<int32_t>(ids), Out<int32_t>(status)});
  });
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(GpsStep, StepImpl,
                              ffi::Ffi::Bind()
                                  .Attr<int64_t>("engine")
                                  .Attr<int64_t>("nstep")
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(GpsSense, SenseImpl,
                              ffi::Ffi::Bind()
                                  .Attr<int64_t>("engine")
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(GpsLinearize, LinearizeImpl,
                              ffi::Ffi::Bind()
                                  .Attr<int64_t>("engine")
                                  .Attr<int64_t>("nstep")
                                  .Attr<double>("eps")
                                  .Attr<bool>("centered")
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(GpsRollout, RolloutImpl,
                              ffi::Ffi::Bind()
                                  .Attr<int64_t>("engine")
                                  .Attr<int64_t>("nstep")
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(GpsRender, RenderImpl,
                              ffi::Ffi::Bind()
                                  .Attr<int64_t>("engine")
                                  .Attr<int64_t>("camera")
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

}  // namespace

const std::vector<Handler>& Handlers() {
  static const std::vector<Handler> handlers = {{"gps_step", reinterpret_cast<void*>(GpsStep)},
                                                {"gps_sense", reinterpret_cast<void*>(GpsSense)},
                                                {"gps_linearize", reinterpret_cast<void*>(GpsLinearize)},
                                                {"gps_rollout", reinterpret_cast<void*>(GpsRollout)},
                                                {"gps_render", reinterpret_cast<void*>(GpsRender)}};
  return handlers;
}

}  // namespace gps
