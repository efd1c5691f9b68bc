package dashboard

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/caddyoauth/caddyoauth/internal/api"
	"github.com/caddyoauth/caddyoauth/internal/pages"
)

const (
	shownConnections = 100 // on one page
	shownSubjects    = 100
	fewConnections   = 12 // among which nobody needs to search
)

// frame is what all pages of the dashboard have.
type frame struct {
	pages.Frame
	Title, Home string
	News        string // where the page is told of changes
	Seen        string // digest of what it shows
}

func (v *visit) frameOf(title string, at spot) frame {
	news := v.path + at.page() + "/news"
	if chosen := v.chosen().Encode(); chosen != "" {
		news += "?" + chosen
	}
	return frame{Frame: pages.Frame{Site: v.r.Host, Who: v.caller.Name}, Title: title, Home: v.path, News: news}
}

// chosen is what the visitor has chosen to see of a list: a page, and on the overview a part of a name and a status.
func (v *visit) chosen() url.Values {
	query, chosen := v.r.URL.Query(), make(url.Values)
	for _, name := range []string{"page", "name", "status"} {
		if value := query.Get(name); value != "" {
			chosen.Set(name, value)
		}
	}
	return chosen
}

// show answers with the page about all connections, or about one.
func (v *visit) show(at spot) error {
	if at.id == "" {
		data, err := v.overview()
		if err != nil {
			return v.refused(err)
		}
		return pages.Render(v.w, http.StatusOK, "dashboard.html", data)
	}
	data, err := v.detail(at)
	if err != nil {
		return v.refused(err)
	}
	data.Notice = doneWords[v.r.URL.Query().Get("done")]
	return pages.Render(v.w, http.StatusOK, "dashboard_one.html", data)
}

// pager says which part of a list a page shows.
type pager struct {
	Total      int // on all pages
	Trouble    int // likewise, that need somebody
	At, Of     int // pages
	Prev, Next string
}

// pagerOf reads what an answer says of the whole list.
func (v *visit) pagerOf(at spot, s sums) pager {
	p := pager{Total: s.Total, Trouble: s.NeedsAttention, At: s.Page, Of: (s.Total + s.PerPage - 1) / max(s.PerPage, 1)}
	link := func(page int) string {
		chosen := v.chosen()
		chosen.Set("page", strconv.Itoa(page))
		return v.path + at.page() + "?" + chosen.Encode()
	}
	if p.At > 1 {
		p.Prev = link(min(p.At-1, max(p.Of, 1)))
	}
	if p.At < p.Of {
		p.Next = link(p.At + 1)
	}
	return p
}

// chip is a choice of connections in one state.
type chip struct {
	State, Tone, Href string
	Count             int
}

// overviewPage is the page about all connections.
type overviewPage struct {
	frame
	pager
	Rows         []standingRow
	Chips        []chip
	Name, Status string // what was chosen
	Chosen       bool
	Search       bool   // there are so many that one is looked for
	PerPerson    bool   // some have a token for each person
	Audit        string // where the last events are; "" = they are not for this visitor
}

// overview shows connections, what needs somebody first: those of all pages are looked at for that.
func (v *visit) overview() (*overviewPage, error) {
	chosen := v.chosen()
	query := url.Values{"secret_type": {"oauth2"}, "expand": {"standing"}, "sort": {"attention"}, "per_page": {strconv.Itoa(shownConnections)}}
	for from, to := range map[string]string{"page": "page", "name": "name", "status": "connection_status"} {
		if chosen.Has(from) {
			query.Set(to, chosen.Get(from))
		}
	}
	var all []api.Secret
	sum, err := v.ask(http.MethodGet, "/v1/secrets?"+query.Encode(), &all)
	if err != nil {
		return nil, err
	}
	data := &overviewPage{
		frame: v.frameOf("Connections", spot{}), pager: v.pagerOf(spot{}, sum), Name: chosen.Get("name"), Status: chosen.Get("status"),
		PerPerson: sum.Statuses["per_subject"] > 0,
	}
	for _, one := range all {
		data.Rows = append(data.Rows, v.rowOf(one))
	}
	if v.audits() {
		data.Audit = v.path + "/audit"
	}
	data.Chosen = data.Name != "" || data.Status != ""
	data.Search = data.Total > fewConnections || data.Chosen
	for _, status := range order {
		if sum.Statuses[status] == 0 {
			continue
		}
		said := stateWords[status]
		if status == "not_connected" {
			said.state = "Without a token" // machines that are ready are among them
		}
		link := url.Values{"status": {status}}
		if data.Name != "" {
			link.Set("name", data.Name)
		}
		data.Chips = append(data.Chips, chip{State: said.state, Tone: said.tone, Href: v.path + "?" + link.Encode(), Count: sum.Statuses[status]})
	}
	data.Seen = digestOfPage(still(data.Rows...), data.pager, data.Chips)
	return data, nil
}

// deed is a button that does something.
type deed struct{ Action, Label, ID string }

// detailPage is the page about one connection, or one subject of it.
type detailPage struct {
	frame
	standingRow
	pager       // of the subjects
	RedirectURI string
	Versions    []versionRow
	Subjects    []standingRow
	Each        bool // each subject has a token set of its own
	Events      []api.AuditEvent
	Deeds       []deed
	Revoke      string
	Notice      string
}

// detail shows one connection, or one subject of it.
func (v *visit) detail(at spot) (*detailPage, error) {
	var secret api.SecretDetail
	if _, err := v.ask(http.MethodGet, spot{id: at.id}.api(), &secret); err != nil {
		return nil, err
	}
	data := &detailPage{frame: v.frameOf(secret.Name, at), standingRow: v.rowOf(secret.Secret), RedirectURI: textOf(secret.RedirectURI)}
	data.Each = textOf(secret.ConnectionStatus) == "per_subject" && at.subject == ""
	if at.subject != "" {
		if err := v.ofSubject(at, &data.standingRow, secret.Standing); err != nil {
			return nil, err
		}
	}
	var err error
	if data.Each {
		if data.Advice == troubled {
			data.Advice = troubledBelow
		}
		err = v.subjects(at, data)
	} else {
		data.Versions, err = v.versions(at)
	}
	if err != nil {
		return nil, err
	}
	data.Deeds = v.deeds(at, data.standingRow)
	if slices.Contains(data.Actions, "revoke") {
		data.Revoke = v.path + at.page() + "/revoke"
	}
	data.Events = v.eventsOf(at)
	data.Seen = digestOfPage(still(data.standingRow), still(data.Subjects...), data.pager, data.Versions, data.Events, data.Deeds, data.Revoke)
	return data, nil
}

// ofSubject makes the row of a connection that of one subject.
func (v *visit) ofSubject(at spot, row *standingRow, whole *api.Standing) error {
	row.Token, row.Counts, row.Day = api.Token{}, nil, nil // which are of all
	if _, err := v.ask(http.MethodGet, at.api(), &row.Token); err != nil {
		return err
	}
	row.Code = row.Token.Code
	if row.describe(row.Status); whole != nil && whole.Unserved && row.Tone != "on" {
		row.Advice = unserved
	}
	return nil
}

// deeds are the buttons that the visitor gets for what there is.
func (v *visit) deeds(at spot, row standingRow) []deed {
	connect := "Reauthorize"
	if row.Generation == 0 || row.Status == "disconnected" {
		connect = "Connect"
	}
	var deeds []deed
	for _, one := range []deed{{"authorize", connect, ""}, {"refresh", "Refresh now", ""}, {"test", "Test", ""}} {
		if slices.Contains(row.Actions, one.Action) {
			deeds = append(deeds, deed{v.path + at.page() + "/" + one.Action, one.Label, one.Action})
		}
	}
	return deeds
}

// versionRow is a generation in the history.
type versionRow struct {
	api.Version
	RollBack string // where a form posts to that brings it back; "" = it cannot be
}

func (v *visit) versions(at spot) ([]versionRow, error) {
	var all []api.Version
	if _, err := v.ask(http.MethodGet, at.api()+"/versions", &all); err != nil {
		return nil, err
	}
	rows := make([]versionRow, 0, len(all))
	for _, one := range all {
		row := versionRow{Version: one}
		if one.CanRollBack {
			row.RollBack = v.path + at.page() + "/rollback/" + strconv.FormatUint(one.Version, 10)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// subjects lists whose token sets there are, what needs somebody first.
func (v *visit) subjects(at spot, data *detailPage) error {
	query := url.Values{"sort": {"attention"}, "per_page": {strconv.Itoa(shownSubjects)}}
	if page := v.chosen().Get("page"); page != "" {
		query.Set("page", page)
	}
	var all []api.Token
	sum, err := v.ask(http.MethodGet, at.api()+"/subjects?"+query.Encode(), &all)
	data.Subjects, data.pager = v.rowsOf(at, all), v.pagerOf(at, sum)
	return err
}

func textOf(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

func lowerFirst(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToLower(first)) + text[size:]
}

func sortedNames(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }
