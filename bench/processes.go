//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// clockTick is the unit of CPU times under /proc: USER_HZ, which is 100 wherever Go runs.
	clockTick = 10 * time.Millisecond
	// stopTimeout is how long a process may take to end by itself.
	stopTimeout = 5 * time.Second
)

// process is a server that runs for the whole comparison.
type process struct {
	name   string
	cmd    *exec.Cmd
	output bytes.Buffer // what it wrote; read only after exited is closed
	exited chan struct{}
}

// startProcess starts a server. It dies with this program, whatever becomes of it.
func startProcess(ctx context.Context, name string, env []string, argv ...string) (*process, error) {
	// Cancelling must not kill it: stop does, in order. The context is without its end therefore.
	p := &process{name: name, cmd: exec.CommandContext(context.WithoutCancel(ctx), argv[0], argv[1:]...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.exited)
	}()
	return p, nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return
	case <-time.After(stopTimeout):
	}
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// alive fails when the process has ended, with the last of what it wrote.
func (p *process) alive() error {
	select {
	case <-p.exited:
	default:
		return nil
	}
	lines := strings.Split(strings.TrimSpace(p.output.String()), "\n")
	return fmt.Errorf("%s ended (%s):\n%s", p.name, p.cmd.ProcessState, strings.Join(lines[max(0, len(lines)-10):], "\n"))
}

// cpu returns the CPU time that all threads of the process have had so far.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, errors.Join(err, p.alive())
	}
	// The program's name, in parentheses, may hold anything; proc_pid_stat(5) counts utime as field 14 and stime as 15.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the CPU time of %s: %d fields", p.name, len(fields))
	}
	return ticks(fields[11], fields[12])
}

// machineCPU returns the time that all cores were busy or taken away by the host since the machine started.
func machineCPU() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(stat), "\n")
	f := strings.Fields(first)
	if len(f) < 9 {
		return 0, fmt.Errorf("read /proc/stat: %d fields", len(f))
	}
	return ticks(f[1], f[2], f[3], f[6], f[7], f[8]) // user, nice, system, irq, softirq, steal; not idle, iowait
}

func ticks(fields ...string) (total time.Duration, err error) {
	for _, field := range fields {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read a CPU time: %w", err)
		}
		total += time.Duration(n) * clockTick
	}
	return total, nil
}

// loadAverage returns the three figures of /proc/loadavg.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(text))
	if err != nil || len(f) < 3 {
		return "unknown"
	}
	return strings.Join(f[:3], " ")
}

// freePort returns a loopback port that was free a moment ago.
func freePort(ctx context.Context) (int, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
