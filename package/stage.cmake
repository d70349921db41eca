# SPDX-License-Identifier: Apache-2.0
# Job: what Debian's policy wants of the files of a package and install() does not do: compressed changelogs and manual pages, no
# group-writable files whatever the umask of who builds.
file(GLOB roots ${CPACK_TEMPORARY_DIRECTORY}/*)
foreach(root ${CPACK_TEMPORARY_DIRECTORY} ${roots})
  file(GLOB long ${root}/usr/share/doc/*/changelog ${root}/usr/share/man/man*/*.[1-8])
  if(long)
    execute_process(COMMAND gzip -9nf ${long} COMMAND_ERROR_IS_FATAL ANY)
  endif()
endforeach()
execute_process(COMMAND chmod -R go-w ${CPACK_TEMPORARY_DIRECTORY} COMMAND_ERROR_IS_FATAL ANY)
