# What a board is, for any POSIX shell: `sh facts.sh OPTIMIZE FOLDER TRTEXEC [ROOT]`. Nothing is changed but that FOLDER
# is made. Lines `name value`, then files, each between `@file PATH` and `@end`; device-tree strings end in newlines.
optimize=$1 folder=$2 trtexec=$3 root=$4
export LC_ALL=C
case $folder in '~/'*) folder=$HOME/${folder#'~/'} ;; esac
case $optimize in '~/'*) optimize=$HOME/${optimize#'~/'} ;; esac
mkdir -p "$folder" 2>/dev/null && cd "$folder" && echo "folder $(pwd)"
echo "arch $(uname -m)"
echo "kernel $(uname -r)"
echo "cores $(getconf _NPROCESSORS_ONLN 2>/dev/null)"
echo "python $(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)"
echo "optimize $(command -v "$optimize" 2>/dev/null)"
for one in "$trtexec" "$root/usr/src/tensorrt/bin/trtexec" trtexec; do
  found=$(command -v "$one" 2>/dev/null) && [ -n "$one" ] && [ -x "$found" ] && { echo "trtexec $found"; break; }
done
echo "flock $(command -v flock 2>/dev/null)"
echo "free_kib $(df -Pk . 2>/dev/null | awk 'NR == 2 { print $4 }')"
echo '@file dpkg-query'
dpkg-query -W '-f=${Package}\t${Version}\t${db:Status-Status}\n' \
  'nvidia-jetpack*' nvidia-l4t-core 'libnvinfer*' 'python3-libnvinfer*' 'libcudnn*' 'cuda-cudart-*' 2>/dev/null
echo '@end'
for file in etc/nv_tegra_release etc/nvpmodel.conf var/lib/nvpmodel/status proc/meminfo proc/swaps \
  usr/local/cuda/version.txt usr/local/cuda/version.json sys/class/devfreq/*/cur_freq sys/class/devfreq/*/min_freq \
  sys/class/devfreq/*/max_freq sys/class/devfreq/*/device/of_node/name \
  sys/devices/system/cpu/cpufreq/policy*/scaling_*_freq; do
  for path in "$root/"$file; do
    [ -r "$path" ] && { echo "@file ${path#"$root/"}"; cat "$path" 2>/dev/null; echo; echo '@end'; }
  done
done
for file in proc/device-tree/model proc/device-tree/compatible; do
  [ -r "$root/$file" ] && { echo "@file $file"; tr '\000' '\n' <"$root/$file"; echo; echo '@end'; }
done
exit 0
