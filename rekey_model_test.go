package caddyoauth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/connection"
)

// rotationModel is a cluster to which everything happens at random, and what has to be readable whatever does.
type rotationModel struct {
	t         *testing.T
	chance    *rand.Rand
	files     *memoryFiles
	instances []*instance
	want      map[string][]string // what may be read under each key: more than one value after a write that was killed; "" = nothing
	backups   [][]byte            // earlier keysets
	steps     []string
}

// mortal starts an instance that dies after so many storage operations; 0 = never.
func (m *rotationModel) mortal(operations int) *instance {
	i := startInstance(m.t, m.files)
	if operations > 0 {
		var done atomic.Int64
		i.storage.before = func(string, string) error {
			if done.Add(1) > int64(operations) {
				return errors.New("killed")
			}
			return nil
		}
	}
	i.keeper.start(func(context.Context) {})
	m.t.Cleanup(i.keeper.stop)
	return i
}

// expect notes what a write has left, or, if it was killed, may have left.
func (m *rotationModel) expect(key, value string, err error) {
	switch {
	case err == nil:
		m.want[key] = []string{value}
	case m.want[key] == nil:
		m.want[key] = []string{"", value}
	default:
		m.want[key] = append(m.want[key], value)
	}
}

func (m *rotationModel) say(format string, values ...any) {
	m.steps = append(m.steps, fmt.Sprintf(format, values...))
}

// step lets one thing happen. The first instance lives for ever: with nobody left who knows the newest keyset, an old one that is
// restored cannot be made good.
func (m *rotationModel) step() {
	n := m.chance.IntN(len(m.instances))
	i := m.instances[n]
	key := recordKey(connection.ID{Connection: fmt.Sprint(m.chance.IntN(6))})
	switch what := m.chance.IntN(20); {
	case what < 6:
		value := fmt.Sprint("value ", len(m.steps))
		m.expect(key, value, i.store.seal(m.t.Context(), key, []byte(value)))
		m.say("%d writes %s", n, value)
	case what < 7:
		if err := i.store.remove(m.t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
			m.expect(key, "", err)
		}
		m.say("%d deletes", n)
	case what < 10:
		_, err := i.Rekey(m.t.Context())
		m.say("%d rotates: %v", n, err)
	case what < 12 && n > 0:
		i.keeper.stop()
		m.files.abandonLocks()
		m.instances[n] = m.mortal(m.chance.IntN(2) * (5 + m.chance.IntN(60)))
		m.say("%d is killed and starts again", n)
	case what == 12:
		m.files.set(keysetKey, m.backups[m.chance.IntN(len(m.backups))])
		m.say("an old keyset is restored")
		m.sleep(25 * time.Second) // until somebody has looked
	case what == 13:
		m.files.set(keysetKey, nil)
		m.say("the keyset is deleted")
		m.sleep(25 * time.Second)
	default:
		m.sleep(time.Duration(m.chance.Int64N(int64(90 * time.Second))))
	}
	if file, ok := m.files.snapshot()[keysetKey]; ok {
		m.backups = append(m.backups, file)
	}
}

func (m *rotationModel) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	m.files.abandonLocks() // nobody who lives is in the middle of anything
	m.say("%v pass", d)
}

// check reads everything with an instance.
func (m *rotationModel) check(who string, i *instance) {
	m.t.Helper()
	for _, key := range slices.Sorted(maps.Keys(m.want)) {
		plain, err := i.store.unseal(m.t.Context(), key)
		if errors.Is(err, connection.ErrNotFound) {
			plain, err = nil, nil
		}
		if err != nil || !slices.Contains(m.want[key], string(plain)) {
			m.t.Fatalf("%s reads %q, %v; want one of %q. What happened: %q", who, plain, err, m.want[key], m.steps)
		}
	}
}

// TestRotationsAtRandom: whatever happens in whatever order, as long as one process lives no record is lost, becomes older or comes
// back, and in the end there is one data key.
func TestRotationsAtRandom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &rotationModel{
					t: t, chance: rand.New(rand.NewPCG(seed, 1)), files: newMemoryFiles(), want: make(map[string][]string),
				}
				for range 3 {
					m.instances = append(m.instances, m.mortal(0))
					m.sleep(time.Second)
				}
				m.backups = append(m.backups, m.files.snapshot()[keysetKey])
				for range 40 {
					m.step()
					m.check("the one that lives", m.instances[0])
				}
				for range 10 {
					m.sleep(time.Minute)
				}
				m.check("one that starts", startInstance(t, m.files))
				if keys := m.instances[0].ring(t).Keys(); len(keys) != 1 || m.instances[0].status(t).Rekey != nil {
					t.Errorf("in the end there are %v, %+v. What happened: %q", keys, m.instances[0].status(t).Rekey, m.steps)
				}
			})
		})
	}
}
