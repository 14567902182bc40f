# install.cmake: libovi as others link it, shared and static, and what `make install` puts where.

set(lib_objects $<TARGET_OBJECTS:ovi>)
foreach(folder ${OVI_FOLDERS})
  list(APPEND lib_objects $<TARGET_OBJECTS:${folder}>)
endforeach()

# Shared: only ovi_* is seen (ovi.map). The soname counts changes that break callers.
add_library(ovi_shared SHARED ${lib_objects})
set_target_properties(ovi_shared PROPERTIES OUTPUT_NAME ovi VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR} LINKER_LANGUAGE C LIBRARY_OUTPUT_DIRECTORY lib)
target_link_options(ovi_shared PRIVATE
  -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/ovi.map)
set_target_properties(ovi_shared PROPERTIES LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/ovi.map)
target_link_libraries(ovi_shared PRIVATE m Threads::Threads ${CMAKE_DL_LIBS} PkgConfig::JANSSON
                      PkgConfig::UTF8PROC)
set(OVI_PC_REQUIRES "jansson libutf8proc")
set(OVI_PC_LIBS "-lm -lpthread -ldl")
if(OVI_CPU)
  target_link_libraries(ovi_shared PRIVATE ${DNNL_LIBRARY} OpenMP::OpenMP_C)
  string(APPEND OVI_PC_LIBS " -ldnnl -lgomp")
endif()
if(OVI_MEDIA)
  target_link_libraries(ovi_shared PRIVATE PkgConfig::FFMPEG)
  string(APPEND OVI_PC_REQUIRES
         " libavformat libavcodec libavutil libswscale libswresample")
endif()

# Static: one object in which all but ovi_* is local, so that nothing meets a caller's names.
set(static_lib ${CMAKE_BINARY_DIR}/lib/libovi.a)
add_custom_command(OUTPUT ${static_lib}
  DEPENDS ovi ${OVI_FOLDERS}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/lib
  COMMAND ${CMAKE_LINKER} -r -o ${CMAKE_BINARY_DIR}/lib/ovi.o ${lib_objects}
  COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=ovi_* ${CMAKE_BINARY_DIR}/lib/ovi.o
  COMMAND ${CMAKE_COMMAND} -E rm -f ${static_lib}
  COMMAND ${CMAKE_AR} rcs ${static_lib} ${CMAKE_BINARY_DIR}/lib/ovi.o
  COMMAND ${CMAKE_COMMAND} -E rm ${CMAKE_BINARY_DIR}/lib/ovi.o
  COMMAND_EXPAND_LISTS VERBATIM)
add_custom_target(ovi_static ALL DEPENDS ${static_lib})

configure_file(cmake/ovi.pc.in ovi.pc @ONLY)

install(TARGETS ovi-cli RUNTIME)
install(TARGETS ovi_shared LIBRARY)
install(FILES ${static_lib} DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/ovi.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/ovi.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_BINARY_DIR}/ovi.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${CMAKE_BINARY_DIR}/ovi.bash RENAME ovi
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
install(DIRECTORY models/tiny DESTINATION ${CMAKE_INSTALL_DATADIR}/ovi)
if(TARGET ovi_cuda)
  install(TARGETS ovi_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
