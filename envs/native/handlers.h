#ifndef GPS_ENVS_NATIVE_HANDLERS_H_
#define GPS_ENVS_NATIVE_HANDLERS_H_

#include <vector>

namespace gps {

struct Handler {
  const char* target;  // the name it is registered under
  void* function;      // an XLA_FFI_Handler
};

const std::vector<Handler>& Handlers();

}  // namespace gps

#endif  // GPS_ENVS_NATIVE_HANDLERS_H_
