// Images of a model by ray casting: what a camera sees of its geoms, without OpenGL.
#ifndef GPS_ENVS_NATIVE_CAMERA_H_
#define GPS_ENVS_NATIVE_CAMERA_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "operations.h"

namespace gps {

// A frame that is fixed to a body.
struct Mount {
  int body;
  double pos[3], quat[4];
};

struct Geom {
  int id, type;
  Mount mount;
  double size[3], radius;  // radius: of the bounding sphere, 0 for none
  float rgb[3];            // flat colour, 0 to 1
  int texture;             // of a plane: a number in Scene::textures, or -1
  double repeat[2];        // textures per metre along the plane's axes
};

// Rows from the top left corner, three bytes a pixel.
struct Texture {
  int width, height;
  std::vector<uint8_t> rgb;
  float mean[3];  // of all pixels
};

struct Scene {
  std::vector<Geom> geoms;  // those that can be seen
  std::vector<Texture> textures;
  float ambient[3], headlight[3];               // what comes from everywhere, and from the camera
  float sun[3], diffuse[3];                     // the direction in which light falls, and its colour
  float zenith[3], horizon[3], ground[3];       // colours of rays that meet nothing, by their elevation
};

// A pinhole camera. Pixel (row, column) looks along ((column + ½ − cx)/fx, −(row + ½ − cy)/fy, −1).
struct Camera {
  Mount mount;
  bool level;  // the orientation is that of the world: mount.quat is global
  int height, width;
  double fx, fy, cx, cy, far;
  std::vector<Scene> scenes;  // one for each model of the engine
};

// What is drawn; null where nobody asked.
template <typename T>
struct RenderArgs {
  Engine* engine;
  const Camera* camera;
  Rows<T> x, input;
  uint8_t* rgb;   // [height, width, 3]
  float* depth;   // [height, width], metres along the optical axis; `far` where there is nothing nearer
  int32_t* ids;   // [height, width], of geoms; -1 where there is none
  int32_t* status;
};

template <typename T>
std::string Render(Engine& engine, int n, RenderArgs<T> args);

}  // namespace gps

#endif  // GPS_ENVS_NATIVE_CAMERA_H_
