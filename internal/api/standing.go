package api

import (
	"slices"
)

// urgency puts statuses in order. Up to lastNeedy, somebody has to do something; the others go on by themselves, and so does what is
// not here.
var urgency = map[string]int{
	"misconfigured": 1, "lost_rotation": 2, "revoked": 3, "failing": 4, "expiring": 5, "authorization_required": 6, "not_connected": 6,
	"disconnected": 7, "pending": 8,
}

const (
	urgencyFailing = 4
	lastNeedy      = 6
	// lastTrouble is up to which urgency one subject is trouble of the connection: that one person has not connected is theirs.
	lastTrouble = 5
)

func urgencyOf(status string) int {
	if urgent, ok := urgency[status]; ok {
		return urgent
	}
	return len(urgency)
}

// urgency is that of the connection, or of the subject who is worst off. A token set tells a machine that has fetched none yet from
// an account that nobody has connected.
func (s *Secret) urgency() int {
	switch {
	case s.Token != nil:
		return urgencyOf(s.Token.Status)
	case s.ConnectionError == "storage": // it is not known
		return urgencyFailing
	}
	most := urgencyOf(deref(s.ConnectionStatus))
	if s.Standing != nil {
		for status := range s.Standing.SubjectCounts {
			if urgent := urgencyOf(status); urgent <= lastTrouble {
				most = min(most, urgent)
			}
		}
	}
	return most
}

// tally says what all of a list are like, whatever page of it is answered.
type tally struct {
	needsAttention int
	statuses       map[string]int
}

func (t *tally) add(status string, urgent int) {
	if urgent <= lastNeedy {
		t.needsAttention++
	}
	if status == "" {
		return // a certificate
	}
	if t.statuses == nil {
		t.statuses = make(map[string]int)
	}
	t.statuses[status]++
}

func (t *tally) into(m *meta) { m.NeedsAttention, m.Statuses = &t.needsAttention, t.statuses }

// complete adds to a secret what depends on the caller and on all of its state.
func (c *call) complete(s *Secret) {
	if s.Standing != nil {
		standing := *s.Standing
		standing.NeedsAttention = s.urgency() <= lastNeedy
		s.Standing = &standing
	}
	if s.Token != nil {
		token := c.allowed(*s.Token, s)
		s.Token = &token
	}
}

// allowed leaves of what can be done with a token set what the caller may do.
func (c *call) allowed(token Token, s *Secret) Token {
	role := c.caller.in(s.Tenant, deref(s.CollectionID))
	token.Actions = slices.DeleteFunc(slices.Clone(token.Actions), func(action string) bool { return role < roleFor("token."+action) })
	return token
}

// roleFor is the role that the routes of an action need.
func roleFor(action string) Role {
	i := slices.IndexFunc(routes, func(r *route) bool { return r.action == action })
	if i < 0 {
		return Admin + 1 // which nobody has
	}
	return routes[i].role
}
