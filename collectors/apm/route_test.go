package apm

import (
	"fmt"
	"strings"
	"testing"
)

func TestPathsAreRedacted(t *testing.T) {
	for target, want := range map[string]string{
		"/":                             "/",
		"/users":                        "/users",
		"/users/42":                     "/users/*",
		"/users/42/orders?id=7":         "/users/*/orders",
		"/users/alice@example.com/mail": "/users/*/mail",
		"/users/alice%40example.com":    "/users/*",
		"/o/550e8400-e29b-41d4-a716-446655440000": "/o/*",
		"/o/deadbeef00":                                     "/o/*",
		"/o/deadbeefdeadbeefdeadbeefdeadbeef/x":             "/o/*/x",
		"/o/DEADBEEFdeadbeef":                               "/o/*",
		"/o/deadbeef-feed-face-cafe-facadefacade":           "/o/*",
		"/feed/facade/decade/deadbeef":                      "/feed/facade/decade/deadbeef",
		"/o/507f1f77bcf86cd799439011/x":                     "/o/*/x",
		"/t/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4": "/t/*",
		"/reset/kJhGfDsAqWeRtYuIoP":                         "/reset/*",
		"/2024-01-15/report":                                "/*/report",
		"/order-12345":                                      "/*",
		"/static/app.3f2a9c1b.js":                           "/static/*",
		"/static/logo.png":                                  "/static/logo.png",
		"/api/v1/items":                                     "/api/v1/items",
		"/apis/apps/v1beta1/deployments":                    "/apis/apps/v1beta1/deployments",
		"/oauth2/token":                                     "/oauth2/token",
		"/checksum/sha256":                                  "/checksum/sha256",
		"/a;jsessionid=12AB/b":                              "/a/b",
		"/naïve":                                            "/*",
		"http://example.com/users/9#x":                      "/users/*",
		"http://example.com":                                "/",
		"*":                                                 "*",
		"/opentelemetry.proto.collector.trace.v1.TraceService/Export": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
		"/some-very-long-but-readable-name":                           "/some-very-long-but-readable-name",
	} {
		if got := redactPath(target); got != want {
			t.Errorf("%q is redacted to %q, want %q", target, got, want)
		}
	}
}

func TestRoutesAreBounded(t *testing.T) {
	r := &routes{max: 50}
	names := map[string]bool{}
	word := func(i int) string {
		return "w" + strings.Map(func(c rune) rune { return c - '0' + 'a' }, fmt.Sprint(i))
	}
	for i := range 1000 {
		names[r.name("/"+word(i%7)+"/"+word(i), true)] = true
	}
	if len(names) > 51 || !names[routeOther] {
		t.Errorf("%d routes", len(names))
	}
	if got := r.name("/"+word(0)+"/"+word(0), true); got != "/"+word(0)+"/"+word(0) {
		t.Errorf("a route that was known became %q", got)
	}
	one := &routes{max: 1000}
	for i := range 1000 {
		names[one.name("/users/"+word(i), true)] = true
	}
	if got := one.name("/users/"+word(5000), true); got != "/users/*" {
		t.Errorf("the user after many is %q", got)
	}
	if got := one.name("/nothing/here", false); got != "" {
		t.Errorf("a path that is not found has the route %q", got)
	}
	deep := strings.Repeat("/a", 50)
	if got := one.name(deep, true); strings.Count(got, "/") != maxDepth || !strings.HasSuffix(got, "/*") {
		t.Errorf("a deep path has the route %q", got)
	}
}

func TestTraceparents(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for v, ok := range map[string]bool{
		"00-" + trace + "-" + span + "-01":                   true,
		"00-" + trace + "-" + span + "-00":                   true,
		"cc-" + trace + "-" + span + "-01-what":              true,
		"00-" + trace + "-" + span + "-01-what":              false,
		"ff-" + trace + "-" + span + "-01":                   false,
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":  false,
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01": false,
		"00-" + trace + "-0000000000000000-01":               false,
		"00-" + trace + "-" + span:                           false,
		"":                                                   false,
	} {
		tc, got := parseTraceparent(v)
		if got != ok {
			t.Errorf("%q valid: %v, want %v", v, got, ok)
		}
		if got && (tc.traceID.String() != trace || tc.spanID.String() != span) {
			t.Errorf("%q gives %s %s", v, tc.traceID, tc.spanID)
		}
	}
}
