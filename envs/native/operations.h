// The batched operations, on rows of double or float; the engine itself always computes in double.
#ifndef GPS_ENVS_NATIVE_OPERATIONS_H_
#define GPS_ENVS_NATIVE_OPERATIONS_H_

#include "engine.h"

namespace gps {

// An operand: one row per simulation, or fewer that several simulations share.
template <typename T>
struct Rows {
  const T* data;
  size_t size;       // of a row
  const int* index;  // the row of each simulation; null where that is its own number
  const T* operator[](int i) const { return data + size * (index ? index[i] : i); }
};

// Results are dense [n, …] arrays. The shapes named are those of one row.
template <typename T>
struct StepArgs {
  Engine* engine;
  int nstep;
  Rows<T> x, u, input;  // [nx] [nu] [ninput]
  T* x_next;            // [nx]; x itself where the step failed
  int32_t* status;
};

template <typename T>
struct SenseArgs {
  Engine* engine;
  Rows<T> x, u, input;
  T* y;  // [ny]; NaN where the reading failed
  int32_t* status;
};

template <typename T>
struct LinearizeArgs {
  Engine* engine;
  int nstep;
  double eps;
  bool centered;
  Rows<T> x, u, input;
  T *A, *B, *C, *D;  // [ndx, ndx] [ndx, nu] [ny, ndx] [ny, nu]; NaN where it failed
  int32_t* status;
};

template <typename T>
struct RolloutArgs {
  Engine* engine;
  int nstep, horizon;
  Rows<T> x0, xs_ref, us_ref, K, noise;  // [nx] [T, nx] [T, nu] [T, nu, ndx] [T, nu]
  Rows<T> input;
  T *xs, *us, *ys;                       // [T+1, nx] [T, nu] [T+1, ny]; held where the rollout failed
  int32_t *steps, *status;               // steps made, T if nothing failed
  const char* feedback;                  // [rows of K, T] whether gains differ from zero; null: not known
};

// Each returns "" or why nothing could be run; what goes wrong in one simulation is its status.
template <typename T>
std::string Step(Engine& engine, int n, StepArgs<T> args);
template <typename T>
std::string Sense(Engine& engine, int n, SenseArgs<T> args);
template <typename T>
std::string Linearize(Engine& engine, int n, LinearizeArgs<T> args);
template <typename T>
std::string Rollout(Engine& engine, int n, RolloutArgs<T> args);

}  // namespace gps

#endif  // GPS_ENVS_NATIVE_OPERATIONS_H_
