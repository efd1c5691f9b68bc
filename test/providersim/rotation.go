package providersim

import (
	"fmt"
	"time"

	"github.com/caddyoauth/caddyoauth/internal/provider"
)

// consent is what one person agreed to. Tokens come from it and end with it.
type consent struct {
	account string
	scopes  []string
	ended   string // why; "" while it lives
}

// refreshToken is one that was handed out.
type refreshToken struct {
	text       string
	of         *consent
	replacedAt time.Time     // zero while it is the newest
	next       *refreshToken // the newest of those that replaced it
	proven     bool          // it, or the access token that came with it, was used
	lost       bool          // the answer with what replaced it got lost
	dead       bool
}

// accessToken is one that was handed out.
type accessToken struct {
	text    string
	of      *consent
	with    *refreshToken
	expires time.Time
	dead    bool
}

// issue makes a new access token, and a new refresh token unless there is one to stay.
func (s *Sim) issue(of *consent, stays *refreshToken) *accessToken {
	s.issued++
	a := &accessToken{text: fmt.Sprintf("%s-access-%d", s.opts.Secret, s.issued), of: of, with: stays, expires: time.Now().Add(s.opts.Lifetime)}
	if stays == nil && !s.opts.Endless {
		a.with = &refreshToken{text: fmt.Sprintf("%s-refresh-%d", s.opts.Secret, s.issued), of: of}
		s.refresh[a.with.text] = a.with
	}
	s.access[a.text] = a
	return a
}

// renew is what the provider does with a refresh token: the rotation classes of the table, exactly. nil is a refusal.
func (s *Sim) renew(text string) *accessToken {
	old := s.refresh[text]
	switch {
	case old == nil:
		s.fault("refresh", "a refresh token that was never handed out")
		return nil
	case old.of.ended != "" || old.dead:
		return nil
	}
	replayed := !old.replacedAt.IsZero()
	if replayed {
		s.counts.Replays++
	}
	switch s.opts.Rotation {
	case provider.RotationStatic:
		return s.issue(old.of, old)
	case provider.RotationOverlapping:
	case provider.RotationRecoverable:
		if replayed && (old.next.proven || time.Since(old.replacedAt) > s.opts.Grace) {
			return nil
		}
		if replayed {
			old.next.dead = true // there is one replacement at a time
		}
		s.prove(old)
	case provider.RotationGrace:
		if replayed && time.Since(old.replacedAt) > s.opts.Grace {
			return nil
		}
	case provider.RotationSingleUse:
		if replayed {
			if !old.lost { // whoever got no answer may ask again, in vain
				s.fault("rotation class E", "a refresh token that was used up came again")
			}
			return nil
		}
	case provider.RotationPunished:
		if replayed && time.Since(old.replacedAt) > s.opts.Grace {
			if !old.lost {
				s.fault("rotation class F", "a refresh token that was used up came again, and ends the whole family")
			}
			s.end(old.of, "a replay")
			return nil
		}
	}
	if s.Row.KillsOldAccessToken {
		s.killAccess(old.of)
	}
	next := s.issue(old.of, nil)
	if old.replacedAt.IsZero() {
		old.replacedAt = time.Now()
	}
	old.next = next.with
	return next
}

// prove takes note that a refresh token, or what came with it, was used: the one before it is dead from here on (class C).
func (s *Sim) prove(used *refreshToken) {
	if used != nil {
		used.proven = true
	}
}

// killAccess ends all access tokens of a consent.
func (s *Sim) killAccess(of *consent) {
	for _, token := range s.access {
		if token.of == of {
			token.dead = true
		}
	}
}

// end ends a consent with all that came from it.
func (s *Sim) end(of *consent, why string) {
	of.ended = why
	s.killAccess(of)
}

// Withdraw is everybody withdrawing their consent in the provider's own settings.
func (s *Sim) Withdraw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.consents {
		s.end(of, "withdrawn")
	}
}

// Expire has the API refuse all access tokens that are out there; refresh tokens live on.
func (s *Sim) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.consents {
		s.killAccess(of)
	}
}

// Living returns how many consents have not ended.
func (s *Sim) Living() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	living := 0
	for _, of := range s.consents {
		if of.ended == "" {
			living++
		}
	}
	return living
}
