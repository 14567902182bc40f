# cuda.cmake: libovi_cuda.so, the cuda backend, opened at run time (src/backend/cuda_loader.c).
# Built where nvcc is; cuBLASLt is linked, cuDNN and the driver are not.
option(OVI_CUDA "cuda backend, where nvcc is found" ON)
option(OVI_CUDA_RELEASE "machine code for every GPU that is supported, not only a few" OFF)
set(OVI_CUDA_TARGETS 90a CACHE STRING
  "compute capabilities to make machine code for, as 86;90a; others compile PTX when it is loaded; none: PTX alone")

set(OVI_CUDA_ARCHS "80;86;89;100;120" CACHE STRING
  "compute capabilities that cuda-archs compiles for, to see whether a kernel spills there")

if(NOT OVI_CUDA)
  return()
endif()

# Why the backend cannot be built here; empty: it can. Asked before nvcc is made to compile.
function(cuda_lacks answer)
  find_program(OVI_NVCC nvcc HINTS /usr/local/cuda/bin $ENV{CUDA_HOME}/bin)
  if(NOT OVI_NVCC)
    set(${answer} "nvcc is not here" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND ${OVI_NVCC} --version OUTPUT_VARIABLE said ERROR_QUIET)
  string(REGEX MATCH "release ([0-9.]+)" said "${said}")
  if("${CMAKE_MATCH_1}" VERSION_LESS 13)
    set(${answer} "expected nvcc 13 or later, found ${OVI_NVCC} ${CMAKE_MATCH_1}" PARENT_SCOPE)
    return()
  endif()
  get_filename_component(bin ${OVI_NVCC} REALPATH)
  get_filename_component(bin ${bin} DIRECTORY)
  find_path(OVI_CUDNN_INCLUDE cudnn.h HINTS ${bin}/../include /usr/local/cuda/include)
  if(NOT OVI_CUDNN_INCLUDE)
    set(${answer} "cudnn.h (of cuDNN 9) is not here" PARENT_SCOPE)
    return()
  endif()
  set(${answer} "" PARENT_SCOPE)
endfunction()
cuda_lacks(lack)
if(lack)
  message(NOTICE "building without the cuda backend: ${lack}") # also where `make` hides the rest
  return()
endif()
if(OVI_SANITIZE) # the C files alone, on a device that is played (tests/fake)
  find_package(CUDAToolkit 13 REQUIRED)
  return()
endif()
set(CMAKE_CUDA_COMPILER ${OVI_NVCC})
set(CMAKE_CUDA_ARCHITECTURES OFF) # named below
enable_language(CUDA)
find_package(CUDAToolkit 13 REQUIRED)

set(targets ${OVI_CUDA_TARGETS})
if(OVI_CUDA_RELEASE)
  set(targets 80 86 89 90a 100 120)
endif()
set(cuda_code -gencode=arch=compute_80,code=compute_80)
foreach(target ${targets})
  list(APPEND cuda_code -gencode=arch=compute_${target},code=sm_${target})
endforeach()

file(GLOB cuda_sources CONFIGURE_DEPENDS src/backend/cuda/*.c src/backend/cuda/*.cu)
add_library(ovi_cuda MODULE ${cuda_sources} src/backend/cuda_sizes.c src/backend/cuda_libraries.c
                            src/backend/tensor.c src/backend/emulate.c)
set_target_properties(ovi_cuda PROPERTIES CUDA_STANDARD 17 CUDA_RUNTIME_LIBRARY Static)
target_include_directories(ovi_cuda PRIVATE include src)
target_include_directories(ovi_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS} ${OVI_CUDNN_INCLUDE})
target_link_libraries(ovi_cuda PRIVATE ovi_core CUDA::cudart_static CUDA::cublasLt)
# A stack frame or a spill takes memory on the device that no plan knows: neither may be.
set(cuda_strict -lineinfo -Werror=all-warnings -Xptxas=-warn-spills,-warn-lmem-usage,-Werror
                -Xcompiler=-Wall,-Wextra)
target_compile_options(ovi_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:${cuda_code} ${cuda_strict}>)

# The same for devices of which the library holds PTX alone, without a release build:
# cmake --build build --target cuda-archs
set(kernel_sources ${cuda_sources})
list(FILTER kernel_sources INCLUDE REGEX "\\.cu$")
set(archs_code "")
foreach(arch ${OVI_CUDA_ARCHS})
  list(APPEND archs_code -gencode=arch=compute_${arch},code=sm_${arch})
endforeach()
add_library(cuda-archs OBJECT EXCLUDE_FROM_ALL ${kernel_sources})
set_target_properties(cuda-archs PROPERTIES CUDA_STANDARD 17)
target_include_directories(cuda-archs PRIVATE include src)
target_include_directories(cuda-archs SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
target_compile_options(cuda-archs PRIVATE ${archs_code} ${cuda_strict})

# Runs on a machine with a GPU: cmake --build build --target attention-check
file(GLOB attention_sources CONFIGURE_DEPENDS src/backend/cuda/*attention*.cu)
add_executable(attention-check EXCLUDE_FROM_ALL tests/gpu/attention_check.c
                               ${attention_sources})
set_target_properties(attention-check PROPERTIES CUDA_STANDARD 17)
target_include_directories(attention-check PRIVATE include src)
target_include_directories(attention-check SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(attention-check PRIVATE CUDA::cudart_static m)
target_compile_options(attention-check PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:${cuda_code}>)
