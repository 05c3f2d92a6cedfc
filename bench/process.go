package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticksPerSecond is the unit of /proc/<pid>/stat on Linux, whatever the
// kernel's own timer does: USER_HZ is part of its interface.
const ticksPerSecond = 100

// cpuSeconds is the processor time of a process, of its living descendants and
// of those that it has outlived. Linux only; elsewhere it is zero.
func cpuSeconds(pid int) float64 {
	ticks := int64(0)
	for _, p := range append(descendants(pid), pid) {
		fields := statFields(p)
		// utime, stime, cutime, cstime: fields 14 to 17, here counted behind the name.
		for i := 11; i <= 14 && i < len(fields); i++ {
			n, _ := strconv.ParseInt(fields[i], 10, 64) // an unreadable field counts as nothing
			ticks += n
		}
	}
	return float64(ticks) / ticksPerSecond
}

// peakMemory is the most memory that a process ever held, in bytes. Linux only.
func peakMemory(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64) // the kernel writes a number
			return kb * 1024
		}
	}
	return 0
}

// statFields are the fields of /proc/<pid>/stat behind the name, which may
// itself hold spaces.
func statFields(pid int) []string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	end := bytes.LastIndexByte(stat, ')')
	return strings.Fields(string(stat[end+1:]))
}

func descendants(pid int) []int {
	parents := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // no /proc, no descendants
	for _, path := range stats {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if fields := statFields(child); len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			parents[parent] = append(parents[parent], child)
		}
	}
	var all []int
	for queue := parents[pid]; len(queue) > 0; queue = queue[1:] {
		all = append(all, queue[0])
		queue = append(queue, parents[queue[0]]...)
	}
	return all
}

// ownCPUSeconds is the processor time of this process alone.
func ownCPUSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
