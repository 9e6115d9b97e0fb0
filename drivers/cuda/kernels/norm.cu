// RMS norm (Zhang and Sennrich, 2019) and its gradient.
#include "fathom.cuh"

struct Forward {
    Mat x, weight, y, rstd;
    float eps;
    u32 reserved;
};

// y = x / rms(x) · w, a block for each row.
template <class T>
FN void rmsnorm(const Forward& a) {
    Carve carve;
    auto scratch = carve.take<float>(32);
    auto x = row<T>(a.x, block_x());
    float squares = 0.0f;
    for (int c = thread(); c < a.x.cols; c += threads()) {
        float v = widen(x.get(c));
        squares = fma(v, v, squares);
    }
    squares = block_sum(squares, scratch);
    float rstd = 1.0f / square_root(squares / (float)a.x.cols + a.eps);
    for (int c = thread(); c < a.x.cols; c += threads())
        store(a.y, block_x(), c, widen(x.get(c)) * rstd * load(a.weight, 0, c));
    if (thread() == 0) store(a.rstd, block_x(), 0, rstd);
}
KERNEL(rmsnorm_f32, Forward, 256) {
    rmsnorm<float>(a);
}
KERNEL(rmsnorm_bf16, Forward, 256) {
    rmsnorm<bf16>(a);
}
