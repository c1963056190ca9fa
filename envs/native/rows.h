// Rows of batched arrays, in and out of an mjData. For the operations only.
//
// MuJoCo's errors unwind with longjmp from any of its functions to mjb_apply, so nothing on the stack of a job may have
// a destructor: working memory comes from Scratch.
#ifndef GPS_ENVS_NATIVE_ROWS_H_
#define GPS_ENVS_NATIVE_ROWS_H_

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine.h"

namespace gps {

// Which buffer of its thread a job uses for what; one name, one use at a time.
enum Slot { kX, kU, kInput, kRef, kDx, kA, kB, kC, kD, kNextA, kNextB, kProduct, kKnot, kNudged, kDirection,
            kNominal, kPlus, kMinus, kAfter, kWarmstart, kNumSlots };

// At least n doubles of this thread, never freed by a job; the contents are whatever was left there.
inline double* Scratch(Slot slot, size_t n) {
  thread_local std::vector<double> buffers[kNumSlots];
  if (buffers[slot].size() < n + 1) buffers[slot].resize(n + 1);
  return buffers[slot].data();
}

template <typename S, typename T>
void Copy(const S* from, size_t n, T* to) {
  std::copy(from, from + n, to);
}

// Whether MuJoCo would refuse one of the numbers (its bound is mjMAXVAL).
inline bool Bad(const double* v, size_t n) {
  return std::any_of(v, v + n, [](double e) { return !(std::abs(e) <= mjMAXVAL); });
}

struct Inputs {
  double *x, *u, *input;
};

// One simulation's operands, in doubles; u is zero where there is none.
template <typename T>
Inputs Load(const Sizes& s, const T* x, const T* u, const T* input) {
  Inputs in{Scratch(kX, s.nx()), Scratch(kU, s.nu), s.ninput ? Scratch(kInput, s.ninput) : nullptr};
  Copy(x, s.nx(), in.x);
  if (u) Copy(u, s.nu, in.u); else std::fill(in.u, in.u + s.nu, 0.0);
  if (in.input) Copy(input, s.ninput, in.input);
  return in;
}

inline bool Bad(const Sizes& s, const Inputs& in) {
  return Bad(in.x, s.nx()) || Bad(in.u, s.nu) || (in.input && Bad(in.input, s.ninput));
}

// mjb_apply hands over a fresh mjData state: zero time and warm start.
inline void SetInputs(const mjModel* m, mjData* d, const Inputs& in) {
  api.mj_setState(m, d, in.x, kStateSpec);
  api.mj_setState(m, d, in.u, mjSTATE_CTRL);
  if (in.input) api.mj_setState(m, d, in.input, kInputSpec);
}

// Sensor readings that the last step or forward left in d.
template <typename T>
void ReadSensors(const mjModel* m, const mjData* d, const Sizes& s, T* y) {
  if (s.ny) Copy(api.mj_readSensor(m, d, 0, 0, nullptr, 0), s.ny, y);
}

// x ⊖ x_ref in MuJoCo's tangent space: (qpos, qvel, act).
inline void Difference(const mjModel* m, const Sizes& s, const double* x, const double* x_ref, double* dx) {
  api.mj_differentiatePos(m, dx, 1, x_ref, x);
  for (int k = 0; k < s.nv + s.na; ++k) dx[s.nv + k] = x[s.nq + k] - x_ref[s.nq + k];
}

}  // namespace gps

#endif  // GPS_ENVS_NATIVE_ROWS_H_
