#include "operations.h"

#include <limits>
#include <vector>

#include "rows.h"

namespace gps {
namespace {

template <typename T>
void StepOne(const mjModel*, mjData* d, int i, void* arg) {
  const auto& a = *static_cast<StepArgs<T>*>(arg);
  const Sizes& s = a.engine->sizes;
  const Inputs in = Load(s, a.x[i], a.u[i], a.input[i]);
  a.status[i] = kDiverged;
  if (Bad(s, in)) return;
  a.status[i] = kEngineError;  // stands if MuJoCo unwinds from here
  const ModelPair* chosen = a.engine->Choose(in.input);
  if (!chosen) return;
  const mjModel* m = chosen->model;
  SetInputs(m, d, in);
  for (int k = 0; k < a.nstep; ++k) api.mj_step(m, d);
  api.mj_getState(m, d, in.x, kStateSpec);
  a.status[i] = Diverged() || Bad(in.x, s.nx()) ? kDiverged : kOk;
  if (a.status[i] == kOk) Copy(in.x, s.nx(), a.x_next + size_t(i) * s.nx());
}

template <typename T>
void SenseOne(const mjModel*, mjData* d, int i, void* arg) {
  const auto& a = *static_cast<SenseArgs<T>*>(arg);
  const Sizes& s = a.engine->sizes;
  const Inputs in = Load(s, a.x[i], a.u[i], a.input[i]);
  a.status[i] = kDiverged;
  if (Bad(s, in)) return;
  a.status[i] = kEngineError;
  const ModelPair* chosen = a.engine->Choose(in.input);
  if (!chosen) return;
  const mjModel* m = chosen->model;
  SetInputs(m, d, in);
  api.mj_forward(m, d);
  a.status[i] = Diverged() ? kDiverged : kOk;
  if (a.status[i] == kOk) ReadSensors(m, d, s, a.y + size_t(i) * s.ny);
}

// u ← u + K dx, each sum in order; four at a time, since one alone would wait for each of its additions.
template <typename T>
void MultiplyAdd(const T* K, const double* dx, int nu, int ndx, double* u) {
  constexpr int kBlock = 4;
  for (int j = 0; j < nu; j += kBlock) {
    const int last = nu - 1 - j;
    const T* rows[kBlock];
    double sums[kBlock];
    for (int b = 0; b < kBlock; ++b) {
      rows[b] = K + (j + std::min(b, last)) * ndx;
      sums[b] = u[j + std::min(b, last)];
    }
    for (int k = 0; k < ndx; ++k) {
      for (int b = 0; b < kBlock; ++b) sums[b] += double(rows[b][k]) * dx[k];
    }
    for (int b = 0; b <= std::min(kBlock - 1, last); ++b) u[j + b] = sums[b];
  }
}

template <typename T>
bool NotZero(const T* v, size_t n) {
  return std::any_of(v, v + n, [](T e) { return e != 0; });
}

// Whether the gains are known to be zero without a look at them.
template <typename T>
bool OpenLoop(const RolloutArgs<T>& a, int i, int t) {
  return a.feedback && !a.feedback[size_t(a.K.index[i]) * a.horizon + t];
}

// u = clip(ū + K (x ⊖ x̄) + noise), rounded to T as it will be reported; returns whether it is a good control.
// x̄ is not read where K is zero.
template <typename T>
bool ClosedLoop(const mjModel* m, const RolloutArgs<T>& a, int i, int t, const double* x, double* u) {
  const Sizes& s = a.engine->sizes;
  const int nu = s.nu, ndx = s.ndx();
  const T* u_ref = a.us_ref[i] + size_t(t) * nu;
  const T* noise = a.noise[i] + size_t(t) * nu;
  const T* K = a.K[i] + size_t(t) * nu * ndx;
  for (int j = 0; j < nu; ++j) u[j] = double(u_ref[j]) + double(noise[j]);
  if (!OpenLoop(a, i, t) && (a.feedback || NotZero(K, size_t(nu) * ndx))) {
    double* x_ref = Scratch(kRef, s.nx());
    double* dx = Scratch(kDx, ndx);
    Copy(a.xs_ref[i] + size_t(t) * s.nx(), s.nx(), x_ref);
    Difference(m, s, x, x_ref, dx);
    MultiplyAdd(K, dx, nu, ndx, u);
  }
  for (int j = 0; j < nu; ++j) u[j] = T(std::min(std::max(u[j], a.engine->low[j]), a.engine->high[j]));
  return !Bad(u, nu);
}

template <typename T>
void Prefetch(const T* data, size_t n) {
  for (size_t k = 0; k < n; k += 64 / sizeof(T)) __builtin_prefetch(data + k);
}

template <typename T>
void RolloutOne(const mjModel*, mjData* d, int i, void* arg) {
  const auto& a = *static_cast<RolloutArgs<T>*>(arg);
  const Sizes& s = a.engine->sizes;
  const int nx = s.nx();
  const Inputs in = Load<T>(s, a.x0[i], nullptr, a.input[i]);
  T* xs = a.xs + size_t(i) * (a.horizon + 1) * nx;
  T* us = a.us + size_t(i) * a.horizon * s.nu;
  T* ys = a.ys + size_t(i) * (a.horizon + 1) * s.ny;
  a.status[i] = kDiverged;
  if (Bad(s, in)) return;
  a.status[i] = kEngineError;
  const ModelPair* chosen = a.engine->Choose(in.input);
  if (!chosen) return;
  const mjModel* m = chosen->model;
  SetInputs(m, d, in);
  for (int t = 0; t < a.horizon; ++t) {
    a.status[i] = kDiverged;
    if (!ClosedLoop(m, a, i, t, in.x, in.u)) return;
    Copy(in.u, s.nu, us + size_t(t) * s.nu);
    // Gains come from memory, once each: fetch the next while the engine is at work.
    if (t + 1 < a.horizon && !OpenLoop(a, i, t + 1)) {
      Prefetch(a.K[i] + size_t(t + 1) * s.nu * s.ndx(), size_t(s.nu) * s.ndx());
    }
    a.status[i] = kEngineError;
    api.mj_setState(m, d, in.u, mjSTATE_CTRL);  // the warm start of the last step stays
    api.mj_step(m, d);
    ReadSensors(m, d, s, ys + size_t(t) * s.ny);
    for (int k = 1; k < a.nstep; ++k) api.mj_step(m, d);
    api.mj_getState(m, d, in.x, kStateSpec);
    a.status[i] = kDiverged;
    if (Diverged() || Bad(in.x, nx)) return;
    Copy(in.x, nx, xs + size_t(t + 1) * nx);
    a.steps[i] = t + 1;
  }
  if (s.ny) {
    a.status[i] = kEngineError;
    std::fill(in.u, in.u + s.nu, 0.0);
    api.mj_setState(m, d, in.u, mjSTATE_CTRL);
    api.mj_forward(m, d);
    ReadSensors(m, d, s, ys + size_t(a.horizon) * s.ny);
  }
  a.status[i] = Diverged() ? kDiverged : kOk;
}

// From a failure on, rows [last, n) of `width` repeat the last good one, or are zero where there is none.
template <typename T>
void Hold(T* rows, int last, int n, int width) {
  for (int t = std::max(last, 0) + (last >= 0); t < n; ++t) {
    if (last < 0) std::fill(rows + size_t(t) * width, rows + size_t(t + 1) * width, T(0));
    else std::copy(rows + size_t(last) * width, rows + size_t(last + 1) * width, rows + size_t(t) * width);
  }
}

// `RolloutArgs::feedback` where several simulations share their gains, as under a planner that samples controls.
template <typename T>
std::vector<char> SharedFeedback(int n, const RolloutArgs<T>& a) {
  if (!a.K.index || n == 0) return {};
  const int rows = 1 + *std::max_element(a.K.index, a.K.index + n);
  const size_t size = size_t(a.engine->sizes.nu) * a.engine->sizes.ndx();
  std::vector<char> feedback(size_t(rows) * a.horizon);
  for (size_t k = 0; k < feedback.size(); ++k) feedback[k] = NotZero(a.K.data + k * size, size);
  return feedback;
}

}  // namespace

template <typename T>
std::string Step(Engine& engine, int n, StepArgs<T> a) {
  const size_t nx = engine.sizes.nx();
  for (int i = 0; i < n; ++i) Copy(a.x[i], nx, a.x_next + i * nx);
  return engine.Run(n, StepOne<T>, &a);
}

template <typename T>
std::string Sense(Engine& engine, int n, SenseArgs<T> a) {
  std::fill(a.y, a.y + size_t(n) * engine.sizes.ny, std::numeric_limits<T>::quiet_NaN());
  return engine.Run(n, SenseOne<T>, &a);
}

template <typename T>
std::string Rollout(Engine& engine, int n, RolloutArgs<T> a) {
  const Sizes& s = engine.sizes;
  const size_t nx = s.nx(), T1 = a.horizon + 1;
  for (size_t i = 0; i < size_t(n); ++i) Copy(a.x0[i], nx, a.xs + i * T1 * nx);
  std::fill(a.us, a.us + size_t(n) * a.horizon * s.nu, T(0));
  std::fill(a.ys, a.ys + size_t(n) * T1 * s.ny, T(0));
  std::fill(a.steps, a.steps + n, 0);
  const std::vector<char> feedback = SharedFeedback(n, a);
  a.feedback = feedback.empty() ? nullptr : feedback.data();
  std::string error = engine.Run(n, RolloutOne<T>, &a);
  for (size_t i = 0; i < size_t(n); ++i) {
    if (a.status[i] == kOk) continue;
    Hold(a.xs + i * T1 * nx, a.steps[i], T1, nx);
    Hold(a.ys + i * T1 * s.ny, a.steps[i] - 1, T1, s.ny);
  }
  return error;
}

template std::string Step(Engine&, int, StepArgs<float>);
template std::string Step(Engine&, int, StepArgs<double>);
template std::string Sense(Engine&, int, SenseArgs<float>);
template std::string Sense(Engine&, int, SenseArgs<double>);
template std::string Rollout(Engine&, int, RolloutArgs<float>);
template std::string Rollout(Engine&, int, RolloutArgs<double>);

}  // namespace gps
