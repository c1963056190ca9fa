// XLA custom calls over the operations. Shapes are the caller's business (envs/calls.py).
//
// Leading dimensions of every operand are the batch; the calls are made with vmap_method="broadcast_all", so all
// operands share them.
#include "handlers.h"

#include <xla/ffi/api/ffi.h>

#include <exception>
#include <memory>
#include <string>

#include "operations.h"

namespace gps {
namespace {

namespace ffi = xla::ffi;

// The number of rows of `buffer` when each ends in `trailing` dimensions.
int Rows(const ffi::AnyBuffer& buffer, size_t trailing) {
  auto dims = buffer.dimensions();
  int64_t n = 1;
  for (size_t i = 0; i + trailing < dims.size(); ++i) n *= dims[i];
  return static_cast<int>(n);
}

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
const T* In(const ffi::AnyBuffer& buffer) { return buffer.typed_data<T>(); }
template <typename T>
T* Out(ffi::Result<ffi::AnyBuffer>& buffer) { return buffer->typed_data<T>(); }
using Ret = ffi::Result<ffi::AnyBuffer>;

ffi::Error StepImpl(int64_t id, int64_t nstep, ffi::AnyBuffer x, ffi::AnyBuffer u, ffi::AnyBuffer input,
                    Ret x_next, Ret status) {
  auto engine = Find(id);
  if (auto error = Check(engine); error.failure()) return error;
  return WithType(x, [&](auto zero) {
    using T = decltype(zero);
    return Step<T>(*engine, Rows(x, 1), {engine.get(), int(nstep), In<T>(x), In<T>(u), In<T>(input),
                                         Out<T>(x_next), Out<int32_t>(status)});
  });
}

ffi::Error SenseImpl(int64_t id, ffi::AnyBuffer x, ffi::AnyBuffer u, ffi::AnyBuffer input, Ret y, Ret status) {
  auto engine = Find(id);
  if (auto error = Check(engine); error.failure()) return error;
  return WithType(x, [&](auto zero) {
    using T = decltype(zero);
    return Sense<T>(*engine, Rows(x, 1), {engine.get(), In<T>(x), In<T>(u), In<T>(input), Out<T>(y),
                                          Out<int32_t>(status)});
  });
}

ffi::Error LinearizeImpl(int64_t id, int64_t nstep, double eps, bool centered, ffi::AnyBuffer x, ffi::AnyBuffer u,
                         ffi::AnyBuffer input, Ret A, Ret B, Ret C, Ret D, Ret status) {
  auto engine = Find(id);
  if (auto error = Check(engine); error.failure()) return error;
  return WithType(x, [&](auto zero) {
    using T = decltype(zero);
    return Linearize<T>(*engine, Rows(x, 1),
                        {engine.get(), int(nstep), eps, centered, In<T>(x), In<T>(u), In<T>(input), Out<T>(A),
                         Out<T>(B), Out<T>(C), Out<T>(D), Out<int32_t>(status)});
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
    return Rollout<T>(*engine, Rows(x0, 1),
                      {engine.get(), int(nstep), horizon, In<T>(x0), In<T>(xs_ref), In<T>(us_ref), In<T>(K),
                       In<T>(noise), In<T>(input), Out<T>(xs), Out<T>(us), Out<T>(ys), Out<int32_t>(steps),
                       Out<int32_t>(status)});
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

}  // namespace

const std::vector<Handler>& Handlers() {
  static const std::vector<Handler> handlers = {{"gps_step", reinterpret_cast<void*>(GpsStep)},
                                                {"gps_sense", reinterpret_cast<void*>(GpsSense)},
                                                {"gps_linearize", reinterpret_cast<void*>(GpsLinearize)},
                                                {"gps_rollout", reinterpret_cast<void*>(GpsRollout)}};
  return handlers;
}

}  // namespace gps
