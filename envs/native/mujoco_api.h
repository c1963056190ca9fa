// MuJoCo's functions, looked up at run time in the library that the installed `mujoco` package ships.
//
// Only functions are used, never the fields of mjModel and mjData: layouts change between releases.
#ifndef GPS_ENVS_NATIVE_MUJOCO_API_H_
#define GPS_ENVS_NATIVE_MUJOCO_API_H_

#include <mujoco/mjbatch.h>
#include <mujoco/mujoco.h>

#include <string>

#define GPS_MUJOCO_FUNCTIONS(X)                                                              \
  X(mj_copyModel) X(mj_deleteModel) X(mj_forward) X(mj_getState) X(mj_setState) X(mj_step)   \
  X(mj_differentiatePos) X(mj_integratePos) X(mj_readSensor) X(mj_version)   \
  X(mj_kinematics) X(mj_local2Global) X(mj_rayHfield) X(mj_rayMesh) X(mju_rayGeom)           \
  X(mjd_transitionFD) X(mj_forwardSkip) X(mj_Euler) X(mj_implicit) X(mjb_apply) X(mjb_defaultConfig) X(mjb_deleteBatch) X(mjb_error)      \
  X(mjb_makeBatch) X(mjb_status) X(mju_setLogHandler)

namespace gps {

struct MujocoApi {
#define GPS_DECLARE(name) decltype(&::name) name = nullptr;
  GPS_MUJOCO_FUNCTIONS(GPS_DECLARE)
#undef GPS_DECLARE
};

// Filled by LoadMujoco, constant afterwards.
extern MujocoApi api;

// Binds `api` to the library at `path`; returns an error message, empty on success.
std::string LoadMujoco(const char* path);

}  // namespace gps

#endif  // GPS_ENVS_NATIVE_MUJOCO_API_H_
