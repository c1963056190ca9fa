// The extension module envs._engine, on Python's stable ABI.
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <memory>
#include <string>
#include <vector>

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
    {"free", FreeEngine, METH_VARARGS, "free(id): calls under way finish, later ones report an error."},
    {"last_error", LastError, METH_VARARGS, "last_error(id): MuJoCo's text of the last ENGINE_ERROR."},
    {"versions", MujocoVersion, METH_NOARGS, "versions() -> MuJoCo's version (compiled against, loaded)."},
    {"targets", Targets, METH_NOARGS, "targets() -> {name: capsule} for jax.ffi.register_ffi_target."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_engine", "The MuJoCo C engine as XLA custom calls.", -1, methods,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__engine() { return PyModule_Create(&module); }
