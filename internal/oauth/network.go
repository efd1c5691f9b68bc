package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"syscall"
)

// networkFailure classifies an exchange that ended without a whole answer. The certificate causes come first because
// they are certain: a handshake that failed carried nothing to the application, even if our side had finished it and
// sent the request after it (RFC 8446 section 4.4.2.4).
func (c *Client) networkFailure(ctx context.Context, err error, got progress) *Error {
	var far *outOfReach
	if errors.As(err, &far) {
		e := newError(Misconfigured, "address_not_allowed", "the "+c.peer.called()+" is at an address that must not be asked: "+far.Error())
		e.cause = far
		return e
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		e := newError(Misconfigured, "server_certificate", "certificate of the "+c.peer.called()+" is not accepted: "+
			distrust(untrusted)+"; check "+c.peer.setBy()+" and the trusted ca")
		e.cause = untrusted
		return e
	}
	if alert, cause := remoteAlert(err); certificateAlerts[alert] || (alert == handshakeFailure && got.asked) {
		return c.certificateRefused(cause)
	}

	code, what := "connection_lost", "the connection broke"
	cause := safeCause(err)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		code, what, cause = "timeout", "no answer within the timeout", ctx.Err()
	case ctx.Err() != nil:
		code, what, cause = "cancelled", "the call was cancelled", ctx.Err()
	case got.carried:
	default:
		code, what = c.beforeSending(err)
	}
	class, text := RetryLater, c.peer.called()+" could not be asked: "
	if got.carried {
		class, text = UnknownOutcome, c.peer.called()+" was asked but the answer is lost: "
	}
	e := newError(class, code, text+what)
	if cause != nil {
		e.text, e.cause = e.text+": "+cause.Error(), cause
	}
	return e
}

func (c *Client) certificateRefused(alert error) *Error {
	what := c.peer.called() + " refused the client certificate"
	if c.cfg.Certificate == nil {
		what = c.peer.called() + " demands a client certificate; set client_certificate"
	}
	e := newError(Misconfigured, "certificate_refused", what+": "+alert.Error())
	e.cause = alert
	return e
}

// beforeSending names what stopped a request that never left.
func (c *Client) beforeSending(err error) (code, what string) {
	var dns *net.DNSError
	var record tls.RecordHeaderError
	alert, _ := remoteAlert(err)
	switch {
	case errors.As(err, &dns):
		return "dns", "its host name does not resolve"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "not_tls", "it does not speak TLS; check the port and scheme of " + c.peer.setBy()
	case alert != 0:
		return "tls", "it broke off the TLS handshake"
	}
	return "unreachable", "it cannot be reached"
}

// certificateAlerts are the alerts that speak of our certificate (RFC 8446 section 6.2).
var certificateAlerts = map[uint8]bool{
	42:  true, // bad_certificate
	43:  true, // unsupported_certificate
	44:  true, // certificate_revoked
	45:  true, // certificate_expired
	46:  true, // certificate_unknown
	48:  true, // unknown_ca
	49:  true, // access_denied
	116: true, // certificate_required
}

// handshakeFailure is what TLS 1.2 has for a missing certificate (RFC 5246 section 7.4.6). Once a server has asked for
// one, versions and ciphers are agreed on, and little else is left that it could mean.
const handshakeFailure = 40

// remoteAlert returns the TLS alert that the server sent, or 0. crypto/tls wraps it in a type it does not export: an
// integer inside a net.OpError, so the type's kind and package are all there is to go by.
func remoteAlert(err error) (uint8, error) {
	var exported tls.AlertError
	if errors.As(err, &exported) {
		return uint8(exported), exported
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return 0, nil
	}
	v := reflect.ValueOf(op.Err)
	if !v.IsValid() || v.Kind() != reflect.Uint8 || v.Type().PkgPath() != "crypto/tls" {
		return 0, nil
	}
	return uint8(v.Uint()), op.Err
}

// distrust says why a server certificate failed, without the names in it: they are the server's text.
func distrust(err *tls.CertificateVerificationError) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return "signed by an unknown authority"
	case errors.As(err, &host):
		return "not valid for this host"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "expired or not yet valid"
	}
	return "not valid"
}

// safeCause picks the part of a network error that is safe to show. net/http wraps foreign text at several places: the
// URL, the status line of a proxy, a proxy address with its password, a malformed answer.
func safeCause(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		var op, inner *net.OpError
		for rest := err; errors.As(rest, &inner); rest = inner.Err {
			op = inner
		}
		if op != nil {
			return op // names the address
		}
		return errno
	}
	if alert, cause := remoteAlert(err); alert != 0 {
		return cause
	}
	for _, plain := range []error{io.ErrUnexpectedEOF, io.EOF, net.ErrClosed} {
		if errors.Is(err, plain) {
			return plain
		}
	}
	return nil
}
