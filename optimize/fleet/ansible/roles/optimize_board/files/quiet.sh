# Wait until a board is quiet enough to measure on: `sh quiet.sh LOAD CELSIUS SECONDS [ROOT]`. The load is the average of
# one minute for each core, the temperature the hottest zone that tells one. It prints `load celsius`, and ends with 75
# where the board is not quiet in time. It sleeps between two looks, since looking is load too.
most=$1 hottest=$2 patience=$3 root=$4
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
waited=0
while :; do
  read -r now _ <"$root/proc/loadavg" || now=0
  celsius=$(cat "$root"/sys/class/thermal/thermal_zone*/temp 2>/dev/null | sort -n | tail -n 1)
  told=$(awk -v now="$now" -v cores="$cores" -v hot="${celsius:--273000}" -v most="$most" -v hottest="$hottest" 'BEGIN {
    load = now / cores; hot = hot / 1000
    printf "%.2f %.1f %d", load, hot, load <= most && hot <= hottest }')
  case $told in *' 1') break ;; esac
  [ "$waited" -ge "$patience" ] && { echo "${told% *}"; exit 75; }
  sleep 5
  waited=$((waited + 5))
done
echo "${told% *}"
