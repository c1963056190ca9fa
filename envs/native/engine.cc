#include "engine.h"

#include <pthread.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <numeric>
#include <shared_mutex>
#include <unordered_map>

namespace gps {
namespace {

// A batch stores one state row per simulation, so larger calls go through a batch of this size in turns.
constexpr int kMaxCapacity = 1024;

std::shared_mutex registry_mutex;
std::unordered_map<int64_t, std::shared_ptr<Engine>>& Registry() {
  static auto* registry = new std::unordered_map<int64_t, std::shared_ptr<Engine>>;
  return *registry;
}

thread_local Engine* running = nullptr;  // on this thread
thread_local bool diverged = false;
mjfLogHandler next_handler = nullptr;
std::atomic<bool> forked{false};

void LogHandler(const mjLogMessage* message) {
  if (running && message->level == mjLOG_WARNING) {
    if (std::strncmp(message->subject, "Nan, Inf or huge value", 22) == 0) {
      diverged = true;
      return;
    }
    if (!running->FirstWarning(message->subject)) return;
  }
  if (next_handler) next_handler(message);
}

struct Job {
  Engine* engine;
  mjfBatchFunc func;
  void* arg;
  int first;
};

void RunJob(const mjModel* m, mjData* d, int sim, void* arg) {
  const Job* job = static_cast<const Job*>(arg);
  running = job->engine;  // an error unwinds past the reset below; a later job of this thread sets it again
  diverged = false;
  job->func(m, d, job->first + sim, job->arg);
  running = nullptr;
}

}  // namespace

Engine::Engine(const std::vector<ModelPair>& models, const Sizes& sizes, const Settings& settings,
               std::vector<double> low, std::vector<double> high)
    : sizes(sizes),
      settings(settings),
      low(std::move(low)),
      high(std::move(high)) {
  for (const ModelPair& pair : models) {
    models_.push_back({api.mj_copyModel(nullptr, pair.model), api.mj_copyModel(nullptr, pair.difference_model)});
  }
}

Engine::~Engine() {
  if (Forked()) return;  // joining threads that do not exist here would wait forever
  for (Slot& slot : free_) api.mjb_deleteBatch(slot.batch);
  for (const ModelPair& pair : models_) {
    api.mj_deleteModel(const_cast<mjModel*>(pair.model));
    api.mj_deleteModel(const_cast<mjModel*>(pair.difference_model));
  }
}

int Engine::Number(const double* input) {
  if (models_.size() == 1) return 0;
  const double wanted = input[sizes.ninput - 1];
  const int last = static_cast<int>(models_.size()) - 1;
  if (wanted >= 0 && wanted <= last && wanted == std::floor(wanted)) return static_cast<int>(wanted);
  std::lock_guard<std::mutex> lock(mutex_);
  last_error_ = "the inputs ask for model " + std::to_string(wanted) + ", there are 0 to " + std::to_string(last);
  return -1;
}

const ModelPair* Engine::Choose(const double* input) {
  const int number = Number(input);
  return number < 0 ? nullptr : &models_[number];
}

Engine::Slot Engine::Acquire(int n, std::string* error) {
  // Few sizes, since each has threads and memory of its own, but small calls should not wake idle threads.
  int capacity = 1;
  while (capacity < n) capacity = capacity < settings.nthread ? 2 * capacity : std::max(n, kMaxCapacity);
  capacity = std::min(capacity, kMaxCapacity);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = std::find_if(free_.begin(), free_.end(),
                           [=](const Slot& slot) { return slot.capacity == capacity; });
    if (it != free_.end()) {
      Slot slot = *it;
      free_.erase(it);
      return slot;
    }
  }
  char message[1000] = "";
  mjBatchConfig config;
  api.mjb_defaultConfig(&config);
  config.nthread = std::min(capacity, settings.nthread);
  mjBatch* batch = api.mjb_makeBatch(models_[0].model, capacity, &config, message, sizeof(message));
  if (!batch) *error = message;
  return {batch, capacity};
}

void Engine::Release(Slot slot) {
  std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(slot);
}

std::string Engine::Run(int n, mjfBatchFunc func, void* arg) {
  if (n == 0) return "";
  static const std::vector<int> ids = [] {
    std::vector<int> ids(kMaxCapacity);
    std::iota(ids.begin(), ids.end(), 0);
    return ids;
  }();
  std::string error;
  Slot slot = Acquire(n, &error);
  if (!slot.batch) return error;
  for (int first = 0; first < n; first += slot.capacity) {
    Job job{this, func, arg, first};
    const int count = std::min(slot.capacity, n - first);
    if (api.mjb_apply(slot.batch, ids.data(), count, RunJob, &job, /*save=*/0)) {
      const int* failed = std::find_if(api.mjb_status(slot.batch), api.mjb_status(slot.batch) + count,
                                       [](int status) { return status != 0; });
      const int sim = static_cast<int>(failed - api.mjb_status(slot.batch));
      std::lock_guard<std::mutex> lock(mutex_);
      last_error_ = api.mjb_error(slot.batch, sim);
    }
    running = nullptr;
  }
  Release(slot);
  return "";
}

int Engine::AddCamera(std::shared_ptr<const Camera> camera) {
  std::lock_guard<std::mutex> lock(mutex_);
  cameras_.push_back(std::move(camera));
  return static_cast<int>(cameras_.size()) - 1;
}

const Camera* Engine::FindCamera(int64_t number) {
  std::lock_guard<std::mutex> lock(mutex_);
  return number >= 0 && number < static_cast<int64_t>(cameras_.size()) ? cameras_[number].get() : nullptr;
}

std::string Engine::last_error() {
  std::lock_guard<std::mutex> lock(mutex_);
  return last_error_;
}

bool Engine::FirstWarning(const char* text) {
  std::string words;
  for (; *text; ++text) {
    if (!std::isdigit(static_cast<unsigned char>(*text))) words += *text;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  return warnings_.insert(words).second;
}

int64_t Register(std::shared_ptr<Engine> engine) {
  static std::atomic<int64_t> next{1};
  std::unique_lock<std::shared_mutex> lock(registry_mutex);
  const int64_t id = next++;
  Registry()[id] = std::move(engine);
  return id;
}

std::shared_ptr<Engine> Find(int64_t id) {
  std::shared_lock<std::shared_mutex> lock(registry_mutex);
  auto it = Registry().find(id);
  return it == Registry().end() ? nullptr : it->second;
}

void Unregister(int64_t id) {
  std::shared_ptr<Engine> engine;  // destroyed after the lock is gone
  std::unique_lock<std::shared_mutex> lock(registry_mutex);
  auto it = Registry().find(id);
  if (it == Registry().end()) return;
  engine = std::move(it->second);
  Registry().erase(it);
  lock.unlock();
}

bool Diverged() { return diverged; }
void ClearDiverged() { diverged = false; }
void InstallLogHandler() {
  mjfLogHandler previous = api.mju_setLogHandler(LogHandler);
  if (previous != LogHandler) next_handler = previous;
}

bool Forked() { return forked.load(std::memory_order_relaxed); }
void WatchForks() {
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
}

}  // namespace gps
