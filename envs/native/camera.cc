#include "camera.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "rows.h"

namespace gps {
namespace {

struct Pose {
  double pos[3], mat[9];
};

// A geom that may be in the picture.
struct Candidate {
  int geom;        // in Scene::geoms
  double nearest;  // no point of it is nearer than this along the optical axis
  int left, right, top, bottom;  // pixels outside [left, right) × [top, bottom) do not see it
};

// What a thread draws on. Nothing of it lives on the stack: MuJoCo's errors unwind past destructors.
struct Canvas {
  std::vector<Pose> poses;
  std::vector<Candidate> candidates;
  std::vector<double> rays, depth, normals;  // [pixels, 3], [pixels], [pixels, 3]
  std::vector<int> geoms;                    // [pixels], in Scene::geoms; -1
};

Canvas& ThisCanvas() {
  thread_local Canvas canvas;
  return canvas;
}

Pose Place(mjData* d, const Mount& mount) {
  Pose pose;
  api.mj_local2Global(d, pose.pos, pose.mat, mount.pos, mount.quat, mount.body, mjSAMEFRAME_NONE);
  return pose;
}

Pose PlaceCamera(mjData* d, const Camera& camera) {
  if (!camera.level) return Place(d, camera.mount);
  // A tracking camera moves with its body and does not turn with it.
  const Mount body{camera.mount.body, {0, 0, 0}, {1, 0, 0, 0}};
  const Mount world{0, {0, 0, 0}, {camera.mount.quat[0], camera.mount.quat[1], camera.mount.quat[2],
                                   camera.mount.quat[3]}};
  Pose pose = Place(d, world);
  const Pose origin = Place(d, body);
  for (int k = 0; k < 3; ++k) pose.pos[k] = origin.pos[k] + camera.mount.pos[k];
  return pose;
}

// Pixels [*first, *last) of `n` that a sphere at (side, ahead) of the camera covers along one axis of the image.
void Cover(double side, double ahead, double radius, double focal, double centre, int n, int* first, int* last) {
  *first = 0;
  *last = n;
  const double square = ahead * ahead - radius * radius;
  if (ahead <= radius || square <= 0) return;  // the camera is in it, or beside it
  const double root = radius * std::sqrt(side * side + square);
  const double low = (side * ahead - root) / square, high = (side * ahead + root) / square;
  *first = int(std::clamp(std::floor(centre + focal * low - 0.5), 0.0, double(n)));
  *last = int(std::clamp(std::ceil(centre + focal * high + 0.5), 0.0, double(n)));
}

// Geoms in front of the camera, the nearest first.
void Collect(mjData* d, const Camera& camera, const Scene& scene, const Pose& eye, Canvas& canvas) {
  canvas.poses.resize(scene.geoms.size());
  canvas.candidates.clear();
  for (size_t g = 0; g < scene.geoms.size(); ++g) {
    const Geom& geom = scene.geoms[g];
    const Pose& pose = canvas.poses[g] = Place(d, geom.mount);
    Candidate found{int(g), 0, 0, camera.width, 0, camera.height};
    if (geom.radius > 0) {
      double way[3], local[3];
      for (int k = 0; k < 3; ++k) way[k] = pose.pos[k] - eye.pos[k];
      for (int k = 0; k < 3; ++k) local[k] = eye.mat[k] * way[0] + eye.mat[3 + k] * way[1] + eye.mat[6 + k] * way[2];
      const double ahead = -local[2];
      if (ahead + geom.radius <= 0 || ahead - geom.radius >= camera.far) continue;
      found.nearest = ahead - geom.radius;
      Cover(local[0], ahead, geom.radius, camera.fx, camera.cx, camera.width, &found.left, &found.right);
      Cover(-local[1], ahead, geom.radius, camera.fy, camera.cy, camera.height, &found.top, &found.bottom);
      if (found.left >= found.right || found.top >= found.bottom) continue;
    }
    canvas.candidates.push_back(found);
  }
  // Planes last: they cover most of the picture, and most of that is hidden by then or cheap to see.
  std::stable_sort(canvas.candidates.begin(), canvas.candidates.end(), [&](const Candidate& a, const Candidate& b) {
    const bool plane_a = scene.geoms[a.geom].radius == 0, plane_b = scene.geoms[b.geom].radius == 0;
    return plane_a != plane_b ? plane_b : a.nearest < b.nearest;
  });
}

// Rays in the world's frame whose parameter is the depth along the optical axis.
void AimRays(const Camera& camera, const Pose& eye, Canvas& canvas) {
  canvas.rays.resize(size_t(3) * camera.height * camera.width);
  double* ray = canvas.rays.data();
  for (int row = 0; row < camera.height; ++row) {
    const double up = -(row + 0.5 - camera.cy) / camera.fy;
    for (int column = 0; column < camera.width; ++column, ray += 3) {
      const double right = (column + 0.5 - camera.cx) / camera.fx;
      for (int k = 0; k < 3; ++k) {
        ray[k] = right * eye.mat[3 * k] + up * eye.mat[3 * k + 1] - eye.mat[3 * k + 2];
      }
    }
  }
}

double Hit(const mjModel* m, const mjData* d, const Geom& geom, const Pose& pose, const double* from,
           const double* ray, double* normal) {
  if (geom.type == mjGEOM_MESH || geom.type == mjGEOM_SDF) return api.mj_rayMesh(m, d, geom.id, from, ray, normal);
  if (geom.type == mjGEOM_HFIELD) return api.mj_rayHfield(m, d, geom.id, from, ray, normal);
  return api.mju_rayGeom(pose.pos, pose.mat, geom.size, from, ray, geom.type, normal);
}

void Trace(const mjModel* m, const mjData* d, const Camera& camera, const Scene& scene, const Pose& eye, bool shaded,
           Canvas& canvas) {
  const size_t pixels = size_t(camera.height) * camera.width;
  canvas.depth.assign(pixels, camera.far);
  canvas.geoms.assign(pixels, -1);
  canvas.normals.resize(shaded ? 3 * pixels : 0);
  double normal[3];
  for (const Candidate& c : canvas.candidates) {
    const Geom& geom = scene.geoms[c.geom];
    const Pose& pose = canvas.poses[c.geom];
    for (int row = c.top; row < c.bottom; ++row) {
      for (int column = c.left; column < c.right; ++column) {
        const size_t p = size_t(row) * camera.width + column;
        if (canvas.depth[p] <= c.nearest) continue;
        const double depth = Hit(m, d, geom, pose, eye.pos, &canvas.rays[3 * p], shaded ? normal : nullptr);
        if (depth < 0 || depth >= canvas.depth[p]) continue;
        canvas.depth[p] = depth;
        canvas.geoms[p] = c.geom;
        if (shaded) Copy(normal, 3, &canvas.normals[3 * p]);
      }
    }
  }
}

double Dot(const double* a, const double* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// The texture of a plane where a ray meets it. Where a pixel covers much of the pattern it is the pattern's mean.
void Paint(const Geom& geom, const Texture& texture, const Pose& pose, const double* from, const double* ray,
           double depth, double slope, double pixel, float* rgb) {
  double way[3];
  for (int k = 0; k < 3; ++k) way[k] = from[k] + depth * ray[k] - pose.pos[k];
  double place[2];
  for (int axis = 0; axis < 2; ++axis) {
    const double along = way[0] * pose.mat[axis] + way[1] * pose.mat[3 + axis] + way[2] * pose.mat[6 + axis];
    const double turns = along * geom.repeat[axis] - 0.5;
    place[axis] = turns - std::floor(turns);
  }
  const int column = std::min(int(place[0] * texture.width), texture.width - 1);
  const int row = std::min(int((1 - place[1]) * texture.height), texture.height - 1);
  const uint8_t* texel = &texture.rgb[3 * (size_t(row) * texture.width + column)];
  const double covered = depth * pixel / std::max(slope, 1e-6) * std::max(geom.repeat[0], geom.repeat[1]);
  const float sharp = float(std::clamp(2 - 2 * covered, 0.0, 1.0));
  for (int k = 0; k < 3; ++k) rgb[k] *= (sharp * texel[k] + (1 - sharp) * texture.mean[k]) / 255;
}

void Sky(const Scene& scene, double rise, float* rgb) {
  const float* end = rise > 0 ? scene.zenith : scene.ground;
  const float share = float(std::min(std::abs(rise), 1.0));
  for (int k = 0; k < 3; ++k) rgb[k] = scene.horizon[k] + share * (end[k] - scene.horizon[k]);
}

void Shade(const Camera& camera, const Scene& scene, const Pose& eye, const Canvas& canvas, uint8_t* out) {
  const size_t pixels = size_t(camera.height) * camera.width;
  for (size_t p = 0; p < pixels; ++p) {
    const double* ray = &canvas.rays[3 * p];
    const double length = std::sqrt(Dot(ray, ray));
    float rgb[3];
    if (canvas.geoms[p] < 0) {
      Sky(scene, ray[2] / length, rgb);
    } else {
      const Geom& geom = scene.geoms[canvas.geoms[p]];
      const double* normal = &canvas.normals[3 * p];
      const double facing = std::abs(Dot(normal, ray)) / length;
      Copy(geom.rgb, 3, rgb);
      if (geom.texture >= 0) {
        Paint(geom, scene.textures[geom.texture], canvas.poses[canvas.geoms[p]], eye.pos, ray, canvas.depth[p],
              facing, 1 / camera.fy, rgb);
      }
      double sun = 0;
      for (int k = 0; k < 3; ++k) sun -= normal[k] * scene.sun[k];
      for (int k = 0; k < 3; ++k) {
        rgb[k] *= scene.ambient[k] + scene.headlight[k] * float(facing) + scene.diffuse[k] * float(std::max(sun, 0.0));
      }
    }
    for (int k = 0; k < 3; ++k) out[3 * p + k] = uint8_t(std::clamp(rgb[k], 0.0f, 1.0f) * 255 + 0.5f);
  }
}

template <typename T>
void RenderOne(const mjModel*, mjData* d, int i, void* arg) {
  const auto& a = *static_cast<RenderArgs<T>*>(arg);
  const Sizes& s = a.engine->sizes;
  const Camera& camera = *a.camera;
  const Inputs in = Load<T>(s, a.x[i], nullptr, a.input[i]);
  a.status[i] = kDiverged;
  if (Bad(s, in)) return;
  a.status[i] = kEngineError;  // stands if MuJoCo unwinds from here
  const int number = a.engine->Number(in.input);
  if (number < 0) return;
  const mjModel* m = a.engine->model(number);
  const Scene& scene = camera.scenes[number];
  Canvas& canvas = ThisCanvas();
  SetInputs(m, d, in);
  api.mj_kinematics(m, d);
  const Pose eye = PlaceCamera(d, camera);
  Collect(d, camera, scene, eye, canvas);
  AimRays(camera, eye, canvas);
  Trace(m, d, camera, scene, eye, a.rgb != nullptr, canvas);
  const size_t pixels = size_t(camera.height) * camera.width;
  if (a.rgb) Shade(camera, scene, eye, canvas, a.rgb + 3 * pixels * i);
  if (a.depth) Copy(canvas.depth.data(), pixels, a.depth + pixels * i);
  if (a.ids) {
    for (size_t p = 0; p < pixels; ++p) {
      a.ids[pixels * i + p] = canvas.geoms[p] < 0 ? -1 : scene.geoms[canvas.geoms[p]].id;
    }
  }
  a.status[i] = kOk;
}

}  // namespace

template <typename T>
std::string Render(Engine& engine, int n, RenderArgs<T> a) {
  const size_t pixels = size_t(a.camera->height) * a.camera->width * n;
  if (a.rgb) std::fill(a.rgb, a.rgb + 3 * pixels, uint8_t(0));
  if (a.depth) std::fill(a.depth, a.depth + pixels, std::numeric_limits<float>::quiet_NaN());
  if (a.ids) std::fill(a.ids, a.ids + pixels, -1);
  return engine.Run(n, RenderOne<T>, &a);
}

template std::string Render(Engine&, int, RenderArgs<float>);
template std::string Render(Engine&, int, RenderArgs<double>);

}  // namespace gps
