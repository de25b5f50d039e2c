// Embed faces in C++ with OpenVINO, and print each embedding as a line of numbers.
//
//     python -m arcface.export --checkpoint emore_arcface --output exported --format openvino --uint8_input --normalize
//     ./embed exported/MobileFaceNet_128.xml anna.ppm bo.ppm
//
// Images are aligned 112x112 crops as binary PPM files. OpenVINO's Python wheel has all that is needed to build this:
//
//     OPENVINO=$(python -c "import openvino; print(openvino.__path__[0])")
//     g++ -std=c++17 -O2 embed.cpp -o embed -I $OPENVINO/include $OPENVINO/libs/libopenvino.so.* -Wl,-rpath,$OPENVINO/libs
#include <cstdint>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>

#include <openvino/openvino.hpp>

constexpr size_t SIZE = 112;

// Writes an image's planes, red, green and blue, one after the other.
void read_ppm(const std::string& path, uint8_t* planes) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    size_t width = 0, height = 0, most = 0;
    file >> magic >> width >> height >> most;
    file.get();
    if (!file || magic != "P6" || width != SIZE || height != SIZE || most != 255)
        throw std::runtime_error(path + ": not a binary PPM of 112x112 pixels");
    for (size_t pixel = 0; pixel < SIZE * SIZE; ++pixel)
        for (size_t channel = 0; channel < 3; ++channel) planes[channel * SIZE * SIZE + pixel] = static_cast<uint8_t>(file.get());
    if (!file) throw std::runtime_error(path + ": truncated");
}

int main(int count, char** arguments) try {
    if (count < 3) throw std::runtime_error("usage: embed MODEL.xml FACE.ppm ...");
    ov::Core core;
    // Without the hint, processors that have bfloat16 compute in it.
    auto model = core.compile_model(arguments[1], "CPU", ov::hint::inference_precision(ov::element::f32));
    const size_t faces = count - 2;
    ov::Tensor images(ov::element::u8, {faces, 3, SIZE, SIZE});
    for (size_t face = 0; face < faces; ++face) read_ppm(arguments[face + 2], images.data<uint8_t>() + face * 3 * SIZE * SIZE);
    auto request = model.create_infer_request();
    request.set_tensor("images", images);
    request.infer();
    const ov::Tensor embeddings = request.get_tensor("embeddings");
    const size_t length = embeddings.get_shape()[1];
    for (size_t face = 0; face < faces; ++face)
        for (size_t value = 0; value < length; ++value)
            std::cout << embeddings.data<float>()[face * length + value] << (value + 1 < length ? ' ' : '\n');
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
}
