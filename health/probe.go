package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// maxProbeBytes bounds what a probe reads of an answer's body.
const maxProbeBytes = 4 << 10

// Probe asks a running relay whether it is ready: GET /readyz at address, which is host:port. It returns nil if
// the answer is 200, and otherwise an error that has the reasons. hello is sent first: it may be a PROXY header.
func Probe(ctx context.Context, address string, hello []byte) error {
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return dialWith(ctx, network, address, hello)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("no answer from %s in time", address)
		}
		return fmt.Errorf("no answer from %s: %w", address, errors.Unwrap(err))
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxProbeBytes))
	reasons := strings.TrimSpace(string(body))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready (%s):\n%s", res.Status, reasons)
	}
	return nil
}

func dialWith(ctx context.Context, network, address string, hello []byte) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil || len(hello) == 0 {
		return c, err
	}
	if _, err := c.Write(hello); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}
