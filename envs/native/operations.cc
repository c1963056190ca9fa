#include "operations.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace gps {
namespace {

// MuJoCo's own bound on numbers it accepts (mjMAXVAL).
bool Bad(const double* v, int n) {
  return std::any_of(v, v + n, [](double e) { return !(std::abs(e) <= mjMAXVAL); });
}

template <typename S, typename T>
void Copy(const S* from, int n, T* to) {
  std::copy(from, from + n, to);
}

// Doubles of this thread that no unwinding error can leak: grown outside MuJoCo's calls, never freed by a job.
// `slot` keeps the buffers of one job apart.
double* Scratch(int slot, size_t n) {
  thread_local std::vector<double> buffers[16];
  if (buffers[slot].size() < n) buffers[slot].resize(n);
  return buffers[slot].data();
}

// The state as x = (qpos, qvel, act) and the rest as in a fresh mjData: zero time and warm start.
void SetInputs(const mjModel* m, mjData* d, const double* x, const double* u, const double* input) {
  api.mj_setState(m, d, x, kStateSpec);
  api.mj_setState(m, d, u, mjSTATE_CTRL);
  if (input) api.mj_setState(m, d, input, kInputSpec);
}

struct Inputs {
  double *x, *u, *input;
};

template <typename T>
Inputs Load(const Sizes& s, int i, const T* x, const T* u, const T* input) {
  Inputs in{Scratch(0, s.nx()), Scratch(1, s.nu), s.ninput ? Scratch(2, s.ninput) : nullptr};
  Copy(x + size_t(i) * s.nx(), s.nx(), in.x);
  if (u) Copy(u + size_t(i) * s.nu, s.nu, in.u);
  if (in.input) Copy(input + size_t(i) * s.ninput, s.ninput, in.input);
  return in;
}

bool BadInputs(const Sizes& s, const Inputs& in) {
  return Bad(in.x, s.nx()) || Bad(in.u, s.nu) || (in.input && Bad(in.input, s.ninput));
}

template <typename T>
void StepOne(const mjModel* m, mjData* d, int i, void* arg) {
  const auto& a = *static_cast<StepArgs<T>*>(arg);
  const Sizes& s = a.engine->sizes;
  const Inputs in = Load(s, i, a.x, a.u, a.input);
  a.status[i] = kDiverged;
  if (BadInputs(s, in)) return;
  a.status[i] = kEngineError;  // stands if MuJoCo unwinds from here
  SetInputs(m, d, in.x, in.u, in.input);
  for (int k = 0; k < a.nstep; ++k) api.mj_step(m, d);
  api.mj_getState(m, d, in.x, kStateSpec);
  a.status[i] = Diverged() || Bad(in.x, s.nx()) ? kDiverged : kOk;
  if (a.status[i] == kOk) Copy(in.x, s.nx(), a.x_next + size_t(i) * s.nx());
}

template <typename T>
void SenseOne(const mjModel* m, mjData* d, int i, void* arg) {
  const auto& a = *static_cast<SenseArgs<T>*>(arg);
  const Sizes& s = a.engine->sizes;
  const Inputs in = Load(s, i, a.x, a.u, a.input);
  a.status[i] = kDiverged;
  if (BadInputs(s, in)) return;
  a.status[i] = kEngineError;
  SetInputs(m, d, in.x, in.u, in.input);
  api.mj_forward(m, d);
  a.status[i] = Diverged() ? kDiverged : kOk;
  if (a.status[i] == kOk) Copy(api.mj_readSensor(m, d, 0, 0, nullptr, 0), s.ny, a.y + size_t(i) * s.ny);
}

// x ⊖ x_ref in MuJoCo's tangent space: (qpos, qvel, act).
void Difference(const mjModel* m, const Sizes& s, const double* x, const double* x_ref, double* dx) {
  api.mj_differentiatePos(m, dx, 1, x_ref, x);
  for (int k = 0; k < s.nv + s.na; ++k) dx[s.nv + k] = x[s.nq + k] - x_ref[s.nq + k];
}

// x ⊕ step·e_j.
void Nudge(const mjModel* m, const Sizes& s, int j, double step, double* x) {
  if (j >= s.nv) {
    x[s.nq + j - s.nv] += step;
    return;
  }
  double* direction = Scratch(3, s.nv);
  std::fill(direction, direction + s.nv, 0.0);
  direction[j] = 1;
  api.mj_integratePos(m, x, direction, step);
}

struct Jacobians {
  double *A, *B, *C, *D;
};

void Multiply(const double* a, const double* b, int rows, int inner, int cols, double* out) {
  for (int r = 0; r < rows; ++r) {
    std::fill(out + r * cols, out + (r + 1) * cols, 0.0);
    for (int k = 0; k < inner; ++k) {
      const double scale = a[r * inner + k];
      for (int c = 0; c < cols; ++c) out[r * cols + c] += scale * b[k * cols + c];
    }
  }
}

// The chain rule over n substeps under one control: A ← Aₖ A, B ← Aₖ B + Bₖ; sensors are read in the first.
void ChainFD(const mjModel* m, mjData* d, const Sizes& s, int nstep, double eps, bool centered,
             const Jacobians& out) {
  const int nx = s.ndx(), nu = s.nu;
  api.mjd_transitionFD(m, d, eps, centered, out.A, out.B, out.C, out.D);
  const Jacobians next{Scratch(8, nx * nx), Scratch(9, nx * nu), nullptr, nullptr};
  double* product = Scratch(10, nx * std::max(nx, nu));
  for (int k = 1; k < nstep; ++k) {
    api.mj_step(m, d);
    api.mjd_transitionFD(m, d, eps, centered, next.A, next.B, nullptr, nullptr);
    Multiply(next.A, out.A, nx, nx, nx, product);
    Copy(product, nx * nx, out.A);
    Multiply(next.A, out.B, nx, nx, nu, product);
    for (int j = 0; j < nx * nu; ++j) out.B[j] = product[j] + next.B[j];
  }
}

// Differences by stepping, for integrators that mjd_transitionFD refuses (RK4).
void StepFD(const mjModel* m, mjData* d, const Sizes& s, int nstep, double eps, bool centered, const Inputs& in,
            const Engine& engine, const Jacobians& out) {
  const int nx = s.nx(), ndx = s.ndx(), nv = s.nv;
  double* warmstart = Scratch(8, nv);
  double* x = Scratch(9, nx);
  double* u = Scratch(10, s.nu);
  double* ends[2] = {Scratch(11, nx + s.ny), Scratch(12, nx + s.ny)};
  double* dx = Scratch(13, ndx);
  api.mj_getState(m, d, warmstart, mjSTATE_WARMSTART);
  auto run = [&](double* end) {
    SetInputs(m, d, x, u, in.input);
    api.mj_setState(m, d, warmstart, mjSTATE_WARMSTART);
    for (int k = 0; k < nstep; ++k) {
      api.mj_step(m, d);
      if (k == 0 && s.ny) Copy(api.mj_readSensor(m, d, 0, 0, nullptr, 0), s.ny, end + nx);
    }
    api.mj_getState(m, d, end, kStateSpec);
  };
  double* nominal = Scratch(14, nx + s.ny);
  Copy(in.x, nx, x);
  Copy(in.u, s.nu, u);
  run(nominal);
  for (int j = 0; j < ndx + s.nu; ++j) {
    const bool control = j >= ndx;
    const int c = j - ndx;
    // Nudge inward at a control limit.
    const bool forward = !control || in.u[c] + eps <= engine.high[c];
    const bool backward = (centered || !forward) && (!control || in.u[c] - eps >= engine.low[c]);
    double width = 0;
    for (int side = 0; side < 2; ++side) {
      const bool used = side == 0 ? forward : backward;
      Copy(in.x, nx, x);
      Copy(in.u, s.nu, u);
      if (!used) {
        Copy(nominal, nx + s.ny, ends[side]);
        continue;
      }
      const double step = side == 0 ? eps : -eps;
      if (control) u[c] += step; else Nudge(m, s, j, step, x);
      width += eps;
      run(ends[side]);
    }
    const double scale = width > 0 ? 1 / width : 0;
    Difference(m, s, ends[0], ends[1], dx);
    for (int r = 0; r < ndx; ++r) (control ? out.B[r * s.nu + c] : out.A[r * ndx + j]) = dx[r] * scale;
    for (int r = 0; r < s.ny; ++r) {
      const double value = (ends[0][nx + r] - ends[1][nx + r]) * scale;
      (control ? out.D[r * s.nu + c] : out.C[r * ndx + j]) = value;
    }
  }
}

template <typename T>
void LinearizeOne(const mjModel* m, mjData* d, int i, void* arg) {
  const auto& a = *static_cast<LinearizeArgs<T>*>(arg);
  const Sizes& s = a.engine->sizes;
  const Inputs in = Load(s, i, a.x, a.u, a.input);
  a.status[i] = kDiverged;
  if (BadInputs(s, in)) return;
  const int sizes[4] = {s.ndx() * s.ndx(), s.ndx() * s.nu, s.ny * s.ndx(), s.ny * s.nu};
  double* out[4];
  for (int k = 0; k < 4; ++k) out[k] = Scratch(4 + k, sizes[k] + 1);
  const Jacobians jacobians{out[0], out[1], s.ny ? out[2] : nullptr, s.ny ? out[3] : nullptr};
  a.status[i] = kEngineError;
  SetInputs(m, d, in.x, in.u, in.input);
  // The columns of the differences start from the warm start found here, i.e. from the nominal solution: on
  // contact-rich models solving from a cold start is the larger part of their cost.
  api.mj_forward(m, d);
  if (a.engine->transition_fd) {
    ChainFD(m, d, s, a.nstep, a.eps, a.centered, jacobians);
  } else {
    StepFD(m, d, s, a.nstep, a.eps, a.centered, in, *a.engine, jacobians);
  }
  bool bad = Diverged();
  for (int k = 0; k < 4; ++k) bad = bad || (sizes[k] && Bad(out[k], sizes[k]));
  a.status[i] = bad ? kDiverged : kOk;
  if (bad) return;
  T* results[4] = {a.A, a.B, a.C, a.D};
  for (int k = 0; k < 4; ++k) Copy(out[k], sizes[k], results[k] + size_t(i) * sizes[k]);
}

template <typename T>
struct RolloutJob {
  RolloutArgs<T> args;
  std::vector<int> done;  // states that stand, per simulation
};

// u = clip(ū + K (x ⊖ x̄) + noise)
template <typename T>
void ClosedLoop(const mjModel* m, const RolloutArgs<T>& a, size_t row, const double* x, double* u) {
  const Sizes& s = a.engine->sizes;
  double* x_ref = Scratch(3, s.nx());
  double* dx = Scratch(4, s.ndx());
  Copy(a.xs_ref + row * s.nx(), s.nx(), x_ref);
  Difference(m, s, x, x_ref, dx);
  for (int j = 0; j < s.nu; ++j) {
    const T* K = a.K + (row * s.nu + j) * s.ndx();
    double value = double(a.us_ref[row * s.nu + j]) + double(a.noise[row * s.nu + j]);
    for (int k = 0; k < s.ndx(); ++k) value += double(K[k]) * dx[k];
    u[j] = std::min(std::max(value, a.engine->low[j]), a.engine->high[j]);
  }
}

template <typename T>
void RolloutOne(const mjModel* m, mjData* d, int i, void* arg) {
  auto& job = *static_cast<RolloutJob<T>*>(arg);
  const auto& a = job.args;
  const Sizes& s = a.engine->sizes;
  const int nx = s.nx();
  Inputs in = Load<T>(s, i, a.x0, nullptr, a.input);
  T* xs = a.xs + size_t(i) * (a.horizon + 1) * nx;
  T* us = a.us + size_t(i) * a.horizon * s.nu;
  T* ys = a.ys + size_t(i) * (a.horizon + 1) * s.ny;
  std::fill(in.u, in.u + s.nu, 0.0);
  a.status[i] = kDiverged;
  if (BadInputs(s, in)) return;
  for (int t = 0; t <= a.horizon; ++t) {
    const bool last = t == a.horizon;
    const size_t row = size_t(i) * a.horizon + t;
    a.status[i] = kEngineError;
    if (last) {
      std::fill(in.u, in.u + s.nu, 0.0);
    } else {
      ClosedLoop(m, a, row, in.x, in.u);
      Copy(in.u, s.nu, us + t * s.nu);
    }
    bool bad = Bad(in.u, s.nu);
    if (!bad) {
      if (t == 0) SetInputs(m, d, in.x, in.u, in.input);
      else api.mj_setState(m, d, in.u, mjSTATE_CTRL);  // the warm start of the last step stays
      if (!last) api.mj_step(m, d);
      else if (s.ny) api.mj_forward(m, d);
      if (s.ny) Copy(api.mj_readSensor(m, d, 0, 0, nullptr, 0), s.ny, ys + t * s.ny);
      for (int k = 1; k < a.nstep && !last; ++k) api.mj_step(m, d);
      api.mj_getState(m, d, in.x, kStateSpec);
      bad = Diverged() || Bad(in.x, nx);
    }
    if (bad) {
      a.status[i] = kDiverged;
      return;
    }
    if (!last) Copy(in.x, nx, xs + (t + 1) * nx);
    job.done[i] = std::min(t + 1, a.horizon);
  }
  a.status[i] = kOk;
}

template <typename T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

}  // namespace

template <typename T>
std::string Step(Engine& engine, int n, StepArgs<T> a) {
  std::copy(a.x, a.x + size_t(n) * engine.sizes.nx(), a.x_next);
  return engine.Run(n, StepOne<T>, &a);
}

template <typename T>
std::string Sense(Engine& engine, int n, SenseArgs<T> a) {
  std::fill(a.y, a.y + size_t(n) * engine.sizes.ny, kNaN<T>);
  return engine.Run(n, SenseOne<T>, &a);
}

template <typename T>
std::string Linearize(Engine& engine, int n, LinearizeArgs<T> a) {
  const Sizes& s = engine.sizes;
  std::fill(a.A, a.A + size_t(n) * s.ndx() * s.ndx(), kNaN<T>);
  std::fill(a.B, a.B + size_t(n) * s.ndx() * s.nu, kNaN<T>);
  std::fill(a.C, a.C + size_t(n) * s.ny * s.ndx(), kNaN<T>);
  std::fill(a.D, a.D + size_t(n) * s.ny * s.nu, kNaN<T>);
  return engine.Run(n, LinearizeOne<T>, &a);
}

template <typename T>
std::string Rollout(Engine& engine, int n, RolloutArgs<T> a) {
  const Sizes& s = engine.sizes;
  const size_t nx = s.nx(), nu = s.nu, ny = s.ny, T1 = a.horizon + 1;
  for (size_t i = 0; i < size_t(n); ++i) std::copy(a.x0 + i * nx, a.x0 + (i + 1) * nx, a.xs + i * T1 * nx);
  std::fill(a.us, a.us + size_t(n) * a.horizon * nu, T(0));
  std::fill(a.ys, a.ys + size_t(n) * T1 * ny, T(0));
  RolloutJob<T> job{a, std::vector<int>(n, 0)};
  std::string error = engine.Run(n, RolloutOne<T>, &job);
  // Hold the state, and the readings, from a failure on.
  for (int i = 0; i < n; ++i) {
    if (a.status[i] == kOk) continue;
    T* xs = a.xs + i * T1 * nx;
    T* ys = a.ys + i * T1 * ny;
    const int last = job.done[i];
    for (size_t t = last + 1; t < T1; ++t) std::copy(xs + last * nx, xs + (last + 1) * nx, xs + t * nx);
    const int read = std::max(last - 1, 0);
    for (size_t t = read + 1; t < T1; ++t) std::copy(ys + read * ny, ys + (read + 1) * ny, ys + t * ny);
  }
  return error;
}

template std::string Step(Engine&, int, StepArgs<float>);
template std::string Step(Engine&, int, StepArgs<double>);
template std::string Sense(Engine&, int, SenseArgs<float>);
template std::string Sense(Engine&, int, SenseArgs<double>);
template std::string Linearize(Engine&, int, LinearizeArgs<float>);
template std::string Linearize(Engine&, int, LinearizeArgs<double>);
template std::string Rollout(Engine&, int, RolloutArgs<float>);
template std::string Rollout(Engine&, int, RolloutArgs<double>);

}  // namespace gps
