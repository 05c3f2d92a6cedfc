package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipes is a network within a test: whoever dials is connected to who accepts.
type pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.dialled:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error { close(p.closed); return nil }

func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// deaf is a connection whose other end can be gone without a word.
type deaf struct {
	net.Conn
	gone   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (d *deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if d.gone.Load() {
		<-d.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (d *deaf) Write(p []byte) (int, error) {
	if d.gone.Load() {
		return len(p), nil
	}
	return d.Conn.Write(p)
}

func (d *deaf) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Conn.Close()
}

// All calls to a provider may share one connection of HTTP/2. When that dies without a
// word, each of them would be in doubt, and all that come after.
func TestADeadConnectionIsLeft(t *testing.T) {
	t.Parallel()
	known := httptest.NewTLSServer(nil)
	known.Close()
	trusted := x509.NewCertPool()
	certificate, err := x509.ParseCertificate(known.TLS.Certificates[0].Certificate[0])
	require.NoError(t, err)
	trusted.AddCert(certificate)
	synctest.Test(t, func(t *testing.T) {
		p := pipes{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{
			Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }),
			TLSConfig: &tls.Config{Certificates: known.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12},
		}
		go func() { _ = server.ServeTLS(p, "", "") }()
		defer func() { _ = server.Close() }()
		var dialled []*deaf
		defer func() {
			for _, conn := range dialled {
				_ = conn.Close()
			}
		}()
		transport := providerTransport()
		defer transport.CloseIdleConnections()
		transport.Proxy = nil
		transport.TLSClientConfig = &tls.Config{RootCAs: trusted, ServerName: "example.com", MinVersion: tls.VersionTLS12, Time: func() time.Time { return certificate.NotBefore }}
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			p.dialled <- theirs
			dialled = append(dialled, &deaf{Conn: ours, closed: make(chan struct{})})
			return dialled[len(dialled)-1], nil
		}
		call := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://example.com", http.NoBody)
			require.NoError(t, err)
			answer, err := transport.RoundTrip(r)
			if err == nil {
				require.Equal(t, 2, answer.ProtoMajor)
				require.NoError(t, answer.Body.Close())
			}
			return err
		}
		require.NoError(t, call())
		dialled[0].gone.Store(true)
		require.Error(t, call())
		require.NoError(t, call(), "on another connection")
		require.Len(t, dialled, 2)
	})
}
