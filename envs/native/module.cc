// The extension module envs._engine, on Python's stable ABI.
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "camera.h"
#include "engine.h"
#include "handlers.h"

namespace {

PyObject* LoadLibrary(PyObject*, PyObject* args) {
  const char* path;
  if (!PyArg_ParseTuple(args, "s", &path)) return nullptr;
  const std::string error = gps::LoadMujoco(path);
  if (!error.empty()) {
    PyErr_SetString(PyExc_ImportError, error.c_str());
    return nullptr;
  }
  gps::WatchForks();
  Py_RETURN_NONE;
}

bool Doubles(PyObject* sequence, std::vector<double>* out) {
  const Py_ssize_t n = PySequence_Size(sequence);
  for (Py_ssize_t i = 0; i < n; ++i) {
    PyObject* item = PySequence_GetItem(sequence, i);
    if (!item) return false;
    out->push_back(PyFloat_AsDouble(item));
    Py_DECREF(item);
  }
  return !PyErr_Occurred();
}

// [(address of a model, address of its difference model)]
bool Models(PyObject* sequence, std::vector<gps::ModelPair>* out) {
  const Py_ssize_t n = PySequence_Size(sequence);
  for (Py_ssize_t i = 0; i < n; ++i) {
    PyObject* item = PySequence_GetItem(sequence, i);
    unsigned long long model, difference_model;
    const bool read = item && PyArg_ParseTuple(item, "KK", &model, &difference_model);
    Py_XDECREF(item);
    if (!read) return false;
    out->push_back({reinterpret_cast<const mjModel*>(model), reinterpret_cast<const mjModel*>(difference_model)});
  }
  return n > 0;
}

PyObject* MakeEngine(PyObject*, PyObject* args) {
  gps::Sizes s;
  PyObject *addresses, *low, *high;
  int nthread, stepping, converges;
  if (!PyArg_ParseTuple(args, "O(iiiiii)(iip)OO", &addresses, &s.nq, &s.nv, &s.na, &s.nu, &s.ny,
                        &s.ninput, &nthread, &stepping, &converges, &low, &high)) {
    return nullptr;
  }
  std::vector<double> bounds[2];
  if (!Doubles(low, &bounds[0]) || !Doubles(high, &bounds[1])) return nullptr;
  std::vector<gps::ModelPair> models;
  if (!Models(addresses, &models)) return nullptr;
  gps::InstallLogHandler();
  const gps::Settings settings{nthread, static_cast<gps::Stepping>(stepping), converges != 0};
  auto engine = std::make_shared<gps::Engine>(models, s, settings, bounds[0], bounds[1]);
  return PyLong_FromLongLong(gps::Register(std::move(engine)));
}

// The numbers of a bytes object, in order.
template <typename T>
class Numbers {
 public:
  Numbers(const char* bytes, Py_ssize_t size) : next_(bytes), end_(bytes + size) {}
  T operator()() {
    T value{};
    if (end_ - next_ >= Py_ssize_t(sizeof(T))) std::memcpy(&value, next_, sizeof(T));
    next_ += sizeof(T);
    return value;
  }
  template <typename U>
  void operator()(U* out, int n) {
    for (int k = 0; k < n; ++k) out[k] = U((*this)());
  }
  bool exact() const { return next_ == end_; }

 private:
  const char *next_, *end_;
};

// [(width, height, bytes)]
bool Textures(PyObject* sequence, std::vector<gps::Texture>* out) {
  const Py_ssize_t n = PySequence_Size(sequence);
  for (Py_ssize_t i = 0; i < n; ++i) {
    PyObject* item = PySequence_GetItem(sequence, i);
    gps::Texture texture{};
    const char* bytes;
    Py_ssize_t size;
    const bool read = item && PyArg_ParseTuple(item, "iiy#", &texture.width, &texture.height, &bytes, &size) &&
                      size > 0 && size == Py_ssize_t(3) * texture.width * texture.height;
    if (read) {
      texture.rgb.assign(bytes, bytes + size);
      double sums[3] = {0, 0, 0};
      for (Py_ssize_t k = 0; k < size; ++k) sums[k % 3] += texture.rgb[k];
      for (int k = 0; k < 3; ++k) texture.mean[k] = float(sums[k] / (size / 3));
      out->push_back(std::move(texture));
    }
    Py_XDECREF(item);
    if (!read) return false;
  }
  return n >= 0;
}

// (geoms' whole numbers, geoms' floating point numbers, textures, colours)
bool ReadScene(PyObject* tuple, gps::Scene* scene) {
  const char *ints_bytes, *reals_bytes, *colours_bytes;
  Py_ssize_t ints_size, reals_size, colours_size;
  PyObject* textures;
  if (!PyArg_ParseTuple(tuple, "y#y#Oy#", &ints_bytes, &ints_size, &reals_bytes, &reals_size, &textures,
                        &colours_bytes, &colours_size) ||
      !Textures(textures, &scene->textures)) {
    return false;
  }
  Numbers<int32_t> ints(ints_bytes, ints_size);
  Numbers<double> reals(reals_bytes, reals_size), colours(colours_bytes, colours_size);
  scene->geoms.resize(ints_size / (4 * sizeof(int32_t)));
  for (gps::Geom& geom : scene->geoms) {
    geom.id = ints();
    geom.type = ints();
    geom.mount.body = ints();
    geom.texture = ints();
    reals(geom.mount.pos, 3);
    reals(geom.mount.quat, 4);
    reals(geom.size, 3);
    geom.radius = reals();
    reals(geom.rgb, 3);
    reals(geom.repeat, 2);
    if (geom.texture >= int(scene->textures.size())) return false;
  }
  for (float* colour : {scene->ambient, scene->headlight, scene->sun, scene->diffuse, scene->zenith, scene->horizon,
                        scene->ground}) {
    colours(colour, 3);
  }
  return ints.exact() && reals.exact() && colours.exact();
}

PyObject* AddCamera(PyObject*, PyObject* args) {
  long long id;
  auto camera = std::make_shared<gps::Camera>();
  const char* reals_bytes;
  Py_ssize_t reals_size;
  PyObject* scenes;
  int level;
  if (!PyArg_ParseTuple(args, "L(ipii)y#O", &id, &camera->mount.body, &level, &camera->height, &camera->width,
                        &reals_bytes, &reals_size, &scenes)) {
    return nullptr;
  }
  camera->level = level != 0;
  Numbers<double> reals(reals_bytes, reals_size);
  reals(camera->mount.pos, 3);
  reals(camera->mount.quat, 4);
  for (double* number : {&camera->fx, &camera->fy, &camera->cx, &camera->cy, &camera->far}) *number = reals();
  camera->scenes.resize(std::max<Py_ssize_t>(PySequence_Size(scenes), 0));
  bool read = reals.exact() && !camera->scenes.empty();
  for (size_t i = 0; read && i < camera->scenes.size(); ++i) {
    PyObject* item = PySequence_GetItem(scenes, i);
    read = item && ReadScene(item, &camera->scenes[i]);
    Py_XDECREF(item);
  }
  auto engine = gps::Find(id);
  if (!read || !engine) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a camera's arrays do not fit together");
    return nullptr;
  }
  return PyLong_FromLong(engine->AddCamera(std::move(camera)));
}

PyObject* FreeEngine(PyObject*, PyObject* args) {
  long long id;
  if (!PyArg_ParseTuple(args, "L", &id)) return nullptr;
  gps::Unregister(id);
  Py_RETURN_NONE;
}

PyObject* LastError(PyObject*, PyObject* args) {
  long long id;
  if (!PyArg_ParseTuple(args, "L", &id)) return nullptr;
  auto engine = gps::Find(id);
  return PyUnicode_FromString(engine ? engine->last_error().c_str() : "");
}

PyObject* MujocoVersion(PyObject*, PyObject*) {
  return Py_BuildValue("ii", mjVERSION_HEADER, gps::api.mj_version ? gps::api.mj_version() : 0);
}

PyObject* Targets(PyObject*, PyObject*) {
  PyObject* targets = PyDict_New();
  for (const gps::Handler& handler : gps::Handlers()) {
    PyObject* capsule = PyCapsule_New(handler.function, "xla._CUSTOM_CALL_TARGET", nullptr);
    PyDict_SetItemString(targets, handler.target, capsule);
    Py_DECREF(capsule);
  }
  return targets;
}

PyMethodDef methods[] = {
    {"load", LoadLibrary, METH_VARARGS, "load(path): bind MuJoCo's functions to the library at path."},
    {"make", MakeEngine, METH_VARARGS,
     "make([(model_address, difference_model_address)], (nq, nv, na, nu, ny, ninput), (nthread, stepping, converges), "
     "low, high) -> id of an engine on copies of the models."},
    {"add_camera", AddCamera, METH_VARARGS,
     "add_camera(engine, (body, level, height, width), reals, [(geom ints, geom reals, [(width, height, bytes)], "
     "colours)]) -> its number; see envs/camera.py."},
    {"free", FreeEngine, METH_VARARGS, "free(id): calls under way finish, later ones report an error."},
    {"last_error", LastError, METH_VARARGS, "last_error(id): MuJoCo's text of the last ENGINE_ERROR."},
    {"versions", MujocoVersion, METH_NOARGS, "versions() -> MuJoCo's version (compiled against, loaded)."},
    {"targets", Targets, METH_NOARGS, "targets() -> {name: capsule} for jax.ffi.register_ffi_target."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_engine", "The MuJoCo C engine as XLA custom calls.", -1, methods,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__engine() { return PyModule_Create(&module); }
