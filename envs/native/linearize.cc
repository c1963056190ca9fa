// Finite differences of a control step, and of its sensors, in the tangent space.
#include <limits>

#include "operations.h"
#include "rows.h"

namespace gps {
namespace {

// What a column of the differences starts from; rows of this layout are set in one call.
constexpr int kKnotSpec = mjSTATE_TIME | kStateSpec | mjSTATE_WARMSTART | mjSTATE_CTRL;

struct Jacobians {
  double *A, *B, *C, *D;  // C and D may be null
};

struct Knot {
  const mjModel* m;
  mjData* d;
  const Engine* engine;
  double eps;
  bool centered;
};

// One mj_step that leaves out the stages below `skip`, which are those of the last Advance.
void Advance(const Knot& k, int skip, double* end) {
  const Sizes& s = k.engine->sizes;
  switch (k.engine->settings.stepping) {
    case Stepping::kEuler:
      api.mj_forwardSkip(k.m, k.d, skip, /*skipsensor=*/s.ny == 0);
      api.mj_Euler(k.m, k.d);
      break;
    case Stepping::kImplicit:
      api.mj_forwardSkip(k.m, k.d, skip, /*skipsensor=*/s.ny == 0);
      api.mj_implicit(k.m, k.d);
      break;
    default:
      api.mj_step(k.m, k.d);
  }
  api.mj_getState(k.m, k.d, end, kStateSpec);
  ReadSensors(k.m, k.d, s, end + s.nx());
}

// Column j of (δx, δu) → (δx', δy): `knot` moved by ±eps, compared with the nominal end.
void Column(const Knot& k, int j, const double* knot, const double* nominal, const Jacobians& out) {
  const Sizes& s = k.engine->sizes;
  const int nx = s.nx(), ndx = s.ndx(), nknot = 1 + nx + s.nv + s.nu, c = j - ndx;
  const bool control = j >= ndx, velocity = j >= s.nv && j < 2 * s.nv;
  const int skip = j < s.nv ? mjSTAGE_NONE : velocity ? mjSTAGE_POS : mjSTAGE_VEL;
  // At a control limit, nudge inward; beyond it nothing changes.
  const double u = control ? knot[1 + nx + s.nv + c] : 0;
  const double low = control ? k.engine->low[c] : -mjMAXVAL, high = control ? k.engine->high[c] : mjMAXVAL;
  const bool forward = u >= low && u + k.eps <= high;
  const bool backward = (k.centered || !forward) && u <= high && u - k.eps >= low;
  const double* ends[2] = {nominal, nominal};
  double width = 0;
  for (int side = 0; side < 2; ++side) {
    if (!(side == 0 ? forward : backward)) continue;
    const double step = side == 0 ? k.eps : -k.eps;
    double* nudged = Scratch(kNudged, nknot);
    Copy(knot, nknot, nudged);
    if (control) {
      nudged[1 + nx + s.nv + c] += step;
    } else if (j >= s.nv) {
      nudged[1 + s.nq + j - s.nv] += step;
    } else {
      double* direction = Scratch(kDirection, s.nv);
      std::fill(direction, direction + s.nv, 0.0);
      direction[j] = 1;
      api.mj_integratePos(k.m, nudged + 1, direction, step);
    }
    double* end = Scratch(side == 0 ? kPlus : kMinus, nx + s.ny);
    api.mj_setState(k.m, k.d, nudged, kKnotSpec);
    Advance(k, skip, end);
    ends[side] = end;
    width += k.eps;
  }
  const double scale = width > 0 ? 1 / width : 0;
  double* dx = Scratch(kDx, ndx);
  Difference(k.m, s, ends[0], ends[1], dx);
  for (int r = 0; r < ndx; ++r) (control ? out.B[r * s.nu + c] : out.A[r * ndx + j]) = dx[r] * scale;
  for (int r = 0; out.C && r < s.ny; ++r) {
    const double dy = (ends[0][nx + r] - ends[1][nx + r]) * scale;
    (control ? out.D[r * s.nu + c] : out.C[r * ndx + j]) = dy;
  }
}

// Jacobians of one mj_step at the state in d; d is one step further at the end.
//
// The columns start from the nominal solution: solving from a stale or zero warm start is the larger part of their
// cost on contact-rich models. The model's solver runs to a tolerance at which the starting point does not show in
// the differences, or else the nominal step is repeated from there.
void Substep(const Knot& k, const Jacobians& out) {
  const Sizes& s = k.engine->sizes;
  const int nx = s.nx(), nknot = 1 + nx + s.nv + s.nu;
  double* knot = Scratch(kKnot, nknot);
  double* nominal = Scratch(kNominal, nx + s.ny);
  double* after = Scratch(kAfter, nknot);
  api.mj_getState(k.m, k.d, knot, kKnotSpec);
  Advance(k, mjSTAGE_NONE, nominal);
  api.mj_getState(k.m, k.d, knot + 1 + nx, mjSTATE_WARMSTART);
  if (k.engine->settings.stepping == Stepping::kTransition) {
    api.mj_getState(k.m, k.d, after, kKnotSpec);
    api.mj_setState(k.m, k.d, knot, kKnotSpec);
    api.mjd_transitionFD(k.m, k.d, k.eps, k.centered, out.A, out.B, out.C, out.D);
  } else {
    if (!k.engine->settings.converges) {
      api.mj_setState(k.m, k.d, knot, kKnotSpec);
      Advance(k, mjSTAGE_VEL, nominal);
    }
    api.mj_getState(k.m, k.d, after, kKnotSpec);
    // Backwards, so that what a column skips is still as at the nominal state: controls, activations, velocities.
    for (int j = s.ndx() + s.nu - 1; j >= 0; --j) Column(k, j, knot, nominal, out);
  }
  api.mj_setState(k.m, k.d, after, kKnotSpec);
}

void Multiply(const double* a, const double* b, int rows, int inner, int cols, double* out) {
  for (int r = 0; r < rows; ++r) {
    std::fill(out + r * cols, out + (r + 1) * cols, 0.0);
    for (int k = 0; k < inner; ++k) {
      const double scale = a[r * inner + k];
      for (int c = 0; c < cols; ++c) out[r * cols + c] += scale * b[k * cols + c];
    }
  }
}

// n substeps under one control: A ← Aₖ A, B ← Aₖ B + Bₖ; sensors are read in the first.
void Chain(const Knot& knot, int nstep, const Jacobians& out) {
  const int ndx = knot.engine->sizes.ndx(), nu = knot.engine->sizes.nu;
  Substep(knot, out);
  const Jacobians next{Scratch(kNextA, ndx * ndx), Scratch(kNextB, ndx * nu), nullptr, nullptr};
  double* product = Scratch(kProduct, ndx * std::max(ndx, nu));
  for (int k = 1; k < nstep; ++k) {
    Substep(knot, next);
    Multiply(next.A, out.A, ndx, ndx, ndx, product);
    Copy(product, ndx * ndx, out.A);
    Multiply(next.A, out.B, ndx, ndx, nu, product);
    for (int j = 0; j < ndx * nu; ++j) out.B[j] = product[j] + next.B[j];
  }
}

template <typename T>
void LinearizeOne(const mjModel*, mjData* d, int i, void* arg) {
  const auto& a = *static_cast<LinearizeArgs<T>*>(arg);
  const Sizes& s = a.engine->sizes;
  const Inputs in = Load(s, a.x[i], a.u[i], a.input[i]);
  a.status[i] = kDiverged;
  if (Bad(s, in)) return;
  const size_t sizes[4] = {size_t(s.ndx()) * s.ndx(), size_t(s.ndx()) * s.nu, size_t(s.ny) * s.ndx(),
                           size_t(s.ny) * s.nu};
  double* out[4];
  for (int k = 0; k < 4; ++k) out[k] = Scratch(Slot(kA + k), sizes[k]);
  a.status[i] = kEngineError;  // stands if MuJoCo unwinds from here
  const ModelPair* chosen = a.engine->Choose(in.input);
  if (!chosen) return;
  const Knot knot{chosen->difference_model, d, a.engine, a.eps, a.centered};
  SetInputs(knot.m, d, in);
  Chain(knot, a.nstep, {out[0], out[1], s.ny ? out[2] : nullptr, s.ny ? out[3] : nullptr});
  bool bad = Diverged();
  for (int k = 0; k < 4; ++k) bad = bad || Bad(out[k], sizes[k]);
  a.status[i] = bad ? kDiverged : kOk;
  if (bad) return;
  T* results[4] = {a.A, a.B, a.C, a.D};
  for (int k = 0; k < 4; ++k) Copy(out[k], sizes[k], results[k] + size_t(i) * sizes[k]);
}

}  // namespace

template <typename T>
std::string Linearize(Engine& engine, int n, LinearizeArgs<T> a) {
  const Sizes& s = engine.sizes;
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  std::fill(a.A, a.A + size_t(n) * s.ndx() * s.ndx(), nan);
  std::fill(a.B, a.B + size_t(n) * s.ndx() * s.nu, nan);
  std::fill(a.C, a.C + size_t(n) * s.ny * s.ndx(), nan);
  std::fill(a.D, a.D + size_t(n) * s.ny * s.nu, nan);
  return engine.Run(n, LinearizeOne<T>, &a);
}

template std::string Linearize(Engine&, int, LinearizeArgs<float>);
template std::string Linearize(Engine&, int, LinearizeArgs<double>);

}  // namespace gps
