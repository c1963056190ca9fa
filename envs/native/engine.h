// One MuJoCo model, prepared for batched calls from compiled programs.
#ifndef GPS_ENVS_NATIVE_ENGINE_H_
#define GPS_ENVS_NATIVE_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "mujoco_api.h"

namespace gps {

// gps.types.Status
enum Status : int32_t { kOk = 0, kDiverged = 1, kEngineError = 2 };

struct Sizes {
  int nq, nv, na, nu, ny;
  int ninput;  // length of the row of kInputSpec components, or 0 where calls do not pass it
  int nx() const { return nq + nv + na; }
  int ndx() const { return 2 * nv + na; }
};

// What x holds, and what a row of inputs (context) holds, in mj_getState's order.
constexpr int kStateSpec = mjSTATE_QPOS | mjSTATE_QVEL | mjSTATE_ACT;
constexpr int kInputSpec = mjSTATE_QFRC_APPLIED | mjSTATE_MOCAP_POS | mjSTATE_MOCAP_QUAT;

class Engine {
 public:
  // Copies `model`. Calls use `nthread` threads, the caller's included.
  Engine(const mjModel* model, const Sizes& sizes, std::vector<double> low, std::vector<double> high,
         int nthread, bool transition_fd);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Runs func(m, d, i, arg) for i in [0, n) on the threads. A simulation that MuJoCo stops with an error
  // leaves its part of the results as it was before the call; the first message is kept for last_error().
  // Returns "" or why nothing could be run. Reentrant: concurrent calls use different batches.
  std::string Run(int n, mjfBatchFunc func, void* arg);

  std::string last_error();
  const Sizes sizes;
  const std::vector<double> low, high;  // limits of the controls, infinite where there are none
  const bool transition_fd;  // mjd_transitionFD supports the model's integrator

 private:
  struct Slot {
    mjBatch* batch;
    int capacity;
  };
  Slot Acquire(int n, std::string* error);
  void Release(Slot slot);

  mjModel* model_;
  const int nthread_;
  std::mutex mutex_;
  std::vector<Slot> free_;  // guarded by mutex_
  std::string last_error_;  // guarded by mutex_
};

// Engines by id. An id is never used twice, so a compiled program that outlives its model finds nothing.
int64_t Register(std::shared_ptr<Engine> engine);
std::shared_ptr<Engine> Find(int64_t id);
void Unregister(int64_t id);

// Whether MuJoCo warned of a bad state, control or acceleration since the last ClearDiverged, on this thread.
bool Diverged();
void ClearDiverged();
// Routes MuJoCo's log through a handler that keeps those warnings from the console while Run is at work.
void InstallLogHandler();

// Set in a child after fork(): the threads did not come along.
bool Forked();
void WatchForks();

}  // namespace gps

#endif  // GPS_ENVS_NATIVE_ENGINE_H_
