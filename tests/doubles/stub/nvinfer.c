/* The functions that NVIDIA's Python bindings look up when they are imported, each giving null.
 *
 * One object stands for libnvinfer, libnvinfer_plugin, libnvonnxparser and, with TensorRT 8, libnvparsers. Value
 * types, enums and callback bases of the bindings need nothing more; whatever needs a real object says so.
 */
#define NUL(name) void *name(void) { return 0; }

NUL(createInferBuilder_INTERNAL)
NUL(createInferRuntime_INTERNAL)
NUL(createInferRefitter_INTERNAL)
NUL(createNvOnnxParser_INTERNAL)
NUL(createNvOnnxParserRefitter_INTERNAL)
NUL(getPluginRegistry)
NUL(getBuilderPluginRegistry)
NUL(initLibNvInferPlugins)
NUL(getNvOnnxParserVersion)

/* C++ names that only TensorRT 8 asks for: createUffParser, FieldMap, createCaffeParser, shutdownProtobufLibrary. */
NUL(_ZN11nvuffparser15createUffParserEv)
NUL(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
NUL(_ZN14nvcaffeparser117createCaffeParserEv)
NUL(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
