#include "mujoco_api.h"

#include <dlfcn.h>

namespace gps {

MujocoApi api;

std::string LoadMujoco(const char* path) {
  // The `mujoco` package has loaded this file already: this is the same copy, not a second one.
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return dlerror();
#define GPS_LOOK_UP(name)                                                             \
  api.name = reinterpret_cast<decltype(api.name)>(dlsym(library, #name));             \
  if (!api.name) return std::string(path) + " has no function " #name;
  GPS_MUJOCO_FUNCTIONS(GPS_LOOK_UP)
#undef GPS_LOOK_UP
  return "";
}

}  // namespace gps
