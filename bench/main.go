//go:build linux

// Command bench compares a Caddy with this plugin to stock set-ups, end to end: wrk in front, Caddy in the middle, nginx
// behind, all on this machine.
//
// What it prints are ratios of neighbouring runs with an interval, because on a shared machine absolute figures drift by 10 %
// and more; docs/PERFORMANCE.md explains the method. It does not measure what injecting itself costs, which is far below
// what can be seen end to end: BenchmarkInject does. Linux only (/proc). It may import the standard library only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

const (
	defaultPairs = 20
	quickPairs   = 3
	// settle lets the proxy finish with the connections that wrk has dropped before its CPU time is read.
	settle = 100 * time.Millisecond
	// overhead is what a run takes beyond its duration, for the estimate.
	overhead = settle + 100*time.Millisecond
)

func init() {
	// Children die with the thread that started them (processes.go), so main must stay on the first one.
	runtime.LockOSThread()
}

type options struct {
	caddy       string
	pairs       int
	duration    time.Duration
	connections int
	threads     int
	seed        uint64
}

func main() {
	o := options{}
	flag.StringVar(&o.caddy, "caddy", "bin/caddy", "the Caddy with the plugin")
	flag.IntVar(&o.pairs, "pairs", defaultPairs, "pairs of runs for each comparison")
	flag.DurationVar(&o.duration, "duration", 2*time.Second, "length of a run, whole seconds")
	flag.IntVar(&o.connections, "c", 64, "connections that wrk keeps open")
	flag.IntVar(&o.threads, "t", 1, "threads of wrk")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "seed of the order of the runs and of the intervals")
	quick := flag.Bool("quick", false, fmt.Sprintf("%d pairs: shows that it works, decides nothing", quickPairs))
	flag.Parse()
	if *quick {
		o.pairs = quickPairs
	}
	// SIGPIPE too (`bench/run | head`): it would end the program before it has cleaned up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// check refuses what cannot work before anything is started.
func (o options) check() error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	if o.pairs < 1 || o.duration < time.Second || o.duration%time.Second != 0 || o.threads < 1 || o.connections < o.threads {
		return errors.New("-pairs and -t must be at least 1, -duration whole seconds, -c at least -t")
	}
	if _, err := os.Stat(o.caddy); err != nil {
		return fmt.Errorf("there is no Caddy to measure (%w); run bench/run, which builds it", err)
	}
	return nil
}

// programs finds wrk and nginx. Debian keeps nginx where only root looks.
func programs() (wrk, nginx string, err error) {
	if wrk, err = exec.LookPath("wrk"); err != nil {
		return "", "", errors.New(`wrk is missing; run "scripts/install-parts bench"`)
	}
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if nginx, err = exec.LookPath(name); err == nil {
			return wrk, nginx, nil
		}
	}
	return "", "", errors.New(`nginx is missing; run "scripts/install-parts bench"`)
}

func run(ctx context.Context, o options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	wrk, nginx, err := programs()
	if err != nil {
		return err
	}
	runs := len(setups) + len(comparisons)*o.pairs*2
	expected := time.Duration(runs)*(o.duration+overhead) + 5*time.Second
	fmt.Printf("%d comparisons of %d pairs, %d runs of %s at %d connections: about %s\n",
		len(comparisons), o.pairs, runs, o.duration, o.connections, expected.Round(time.Second))
	fmt.Printf("%d cores, load average %s, %s, seed %d\n", runtime.NumCPU(), loadAverage(), runtime.Version(), o.seed)
	ctx, cancel := context.WithTimeout(ctx, 2*expected+time.Minute)
	defer cancel()

	lab, err := newLab(ctx, o, wrk, nginx)
	if lab != nil {
		defer func() { err = errors.Join(err, lab.close()) }()
	}
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(o.seed, 0))
	results, err := lab.measure(ctx, o.pairs, rng)
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before the end: %w", ctx.Err())
	}
	if err != nil {
		return err
	}
	if got := lab.tokenRequests.Load(); got != int64(lab.injecting) {
		return fmt.Errorf("expected %d token requests, one for each proxy with the plugin, got %d", lab.injecting, got)
	}
	report(os.Stdout, results, rng)
	return nil
}

// measure runs every comparison's pairs in the order A B B A (or B A A B), the comparisons shuffled anew for every two
// pairs: what slows the machine for a while then hits both sides, and every comparison, alike.
func (l *lab) measure(ctx context.Context, pairs int, rng *rand.Rand) (*results, error) {
	res := &results{pairs: make([][]pair, len(comparisons)), runs: make(map[string][]sample)}
	for _, s := range setups {
		if _, err := l.load(ctx, s.name); err != nil { // warm-up: connections, heap size, the token
			return nil, err
		}
	}
	for done := 0; done < pairs; done += 2 {
		for _, i := range rng.Perm(len(comparisons)) {
			forward := rng.IntN(2) == 0
			for n := range min(2, pairs-done) {
				p, err := l.pair(ctx, comparisons[i], forward == (n == 0))
				if err != nil {
					return nil, err
				}
				res.add(i, p)
			}
		}
		fmt.Fprintf(os.Stderr, "%d of %d pairs\n", min(done+2, pairs), pairs)
	}
	return res, nil
}

// pair measures both sides of a comparison, one right after the other.
func (l *lab) pair(ctx context.Context, c comparison, forward bool) (p pair, err error) {
	if forward {
		if p.subject, err = l.load(ctx, c.subject); err == nil {
			p.base, err = l.load(ctx, c.base)
		}
		return p, err
	}
	if p.base, err = l.load(ctx, c.base); err == nil {
		p.subject, err = l.load(ctx, c.subject)
	}
	return p, err
}
