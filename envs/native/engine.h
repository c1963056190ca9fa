// One MuJoCo model, prepared for batched calls from compiled programs.
#ifndef GPS_ENVS_NATIVE_ENGINE_H_
#define GPS_ENVS_NATIVE_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "mujoco_api.h"

namespace gps {

// gps.types.Status
enum Status : int32_t { kOk = 0, kDiverged = 1, kEngineError = 2 };

struct Sizes {
  int nq, nv, na, nu, ny;
  int ninput;  // length of the row of kInputSpec components, or 0 where calls do not pass it; with more than one
               // model, of these and the number of the model
  int nx() const { return nq + nv + na; }
  int ndx() const { return 2 * nv + na; }
};

// What x holds, and what a row of inputs (context) holds, in mj_getState's order.
constexpr int kStateSpec = mjSTATE_QPOS | mjSTATE_QVEL | mjSTATE_ACT;
constexpr int kInputSpec = mjSTATE_QFRC_APPLIED | mjSTATE_MOCAP_POS | mjSTATE_MOCAP_QUAT;

// How finite differences make a step: stage by stage where MuJoCo's functions allow it, by mjd_transitionFD, or whole.
enum class Stepping { kWhole = 0, kEuler = 1, kImplicit = 2, kTransition = 3 };

struct Settings {
  int nthread;  // of a batched call, the caller's included
  Stepping stepping;
  bool converges;  // the solver of the difference model finds the solution from any warm start
};

// A model, and the one that finite differences are made with, which differs from it in its options only.
struct ModelPair {
  const mjModel *model, *difference_model;
};

struct Camera;

class Engine {
 public:
  // Copies the models, which have the same sizes and structure.
  Engine(const std::vector<ModelPair>& models, const Sizes& sizes, const Settings& settings, std::vector<double> low,
         std::vector<double> high);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Runs func(m, d, i, arg) for i in [0, n) on the threads. A simulation that MuJoCo stops with an error
  // leaves its part of the results as it was before the call; the first message is kept for last_error().
  // Returns "" or why nothing could be run. Reentrant: concurrent calls use different batches.
  std::string Run(int n, mjfBatchFunc func, void* arg);

  std::string last_error();
  // Whether no warning of this text, numbers apart, has come from this engine before.
  bool FirstWarning(const char* text);
  // The number of the model of a simulation with this row of inputs; -1, and a message for last_error(), where it
  // names none.
  int Number(const double* input);
  // The models with that number; null where there is none.
  const ModelPair* Choose(const double* input);
  const mjModel* model(int number) const { return models_[number].model; }

  // A camera is kept for as long as the engine; it is asked for by the number that adding it returned.
  int AddCamera(std::shared_ptr<const Camera> camera);
  const Camera* FindCamera(int64_t number);  // null where there is none

  const Sizes sizes;
  const Settings settings;
  const std::vector<double> low, high;  // limits of the controls, infinite where there are none

 private:
  struct Slot {
    mjBatch* batch;
    int capacity;
  };
  // A batch that no other call is using, for up to n rows at a time; no batch and an error if there is none.
  Slot Acquire(int n, std::string* error);
  void Release(Slot slot);

  std::vector<ModelPair> models_;
  std::mutex mutex_;  // guards what follows
  std::vector<Slot> free_;
  std::deque<std::shared_ptr<const Camera>> cameras_;
  std::string last_error_;
  std::set<std::string> warnings_;
};

// Engines by id. An id is never used twice, so a compiled program that outlives its model finds nothing.
int64_t Register(std::shared_ptr<Engine> engine);
std::shared_ptr<Engine> Find(int64_t id);
void Unregister(int64_t id);

// Whether MuJoCo warned of a bad state, control or acceleration since the last ClearDiverged, on this thread.
bool Diverged();
void ClearDiverged();
// Routes MuJoCo's log through a handler that, while Run is at work, keeps those warnings from the console and passes
// any other on once per engine.
void InstallLogHandler();

// Set in a child after fork(): the threads did not come along.
bool Forked();
void WatchForks();

}  // namespace gps

#endif  // GPS_ENVS_NATIVE_ENGINE_H_
