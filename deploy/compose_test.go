// Package deploy_test holds docker-compose.yml and the Dockerfile to the rules they
// promise, as far as that can be done without an engine: it loads the file as
// Docker Compose does and looks at what came out. It pulls and runs nothing.
package deploy_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
)

// secretName tells settings that must not stand in the file.
var secretName = regexp.MustCompile(`SECRET|PASSWORD|PWD|API_KEY|TOKEN`)

func TestComposeLoadsWithTheExampleSettings(t *testing.T) {
	t.Parallel()
	project := load(t, exampleSettings(t))
	require.ElementsMatch(t, []string{"migrate", "postgres", "sandbox", "server", "temporal", "temporal-schema", "temporal-ui", "worker"}, project.ServiceNames())
	require.Contains(t, project.Services["server"].Environment, "FANFARE_API_KEYS")
	require.Contains(t, *project.Services["server"].Environment["FANFARE_DATABASE_URL"], "made-up-for-this-test@postgres:5432")
}

func TestComposeSaysWhichSettingIsMissing(t *testing.T) {
	t.Parallel()
	settings := exampleSettings(t)
	for name := range settings {
		less := maps.Clone(settings)
		delete(less, name)
		_, err := project(t, less)
		require.ErrorContains(t, err, "copy deploy/env.example to .env", "without %s", name)
	}
}

func TestPortsAreOpenToThisMachineOnly(t *testing.T) {
	t.Parallel()
	for name, service := range load(t, exampleSettings(t)).Services {
		for _, port := range service.Ports {
			require.Equal(t, "127.0.0.1", port.HostIP, "service %s publishes %s to everybody: write 127.0.0.1:%s:%d", name, port.Published, port.Published, port.Target)
		}
		require.NotEqual(t, "host", service.NetworkMode, "service %s must not use the host's network", name)
	}
}

func TestImagesArePinned(t *testing.T) {
	t.Parallel()
	pinned := regexp.MustCompile(`:[0-9]+\.[0-9]+[^:]*$`)
	for name, service := range load(t, exampleSettings(t)).Services {
		if service.Build == nil {
			require.Regexp(t, pinned, service.Image, "service %s: give its image a version, such as postgres:16.10", name)
		}
	}
	from := regexp.MustCompile(`(?m)^FROM (\S+)`)
	for _, image := range from.FindAllStringSubmatch(read(t, "Dockerfile"), -1) {
		if image[1] != "scratch" {
			require.Regexp(t, pinned, image[1], "Dockerfile: give the image %s a version", image[1])
		}
	}
}

func TestServicesAreWatchedAndBounded(t *testing.T) {
	t.Parallel()
	services := load(t, exampleSettings(t)).Services
	oneShots := oneShots(services)
	require.ElementsMatch(t, []string{"migrate", "temporal-schema"}, oneShots)
	for name, service := range services {
		require.NotNil(t, service.Deploy, "service %s: say how much memory it may take", name)
		require.Positive(t, service.Deploy.Resources.Limits.MemoryBytes, "service %s: say how much memory it may take", name)
		if slices.Contains(oneShots, name) {
			require.Equal(t, "no", service.Restart, "service %s ends by itself and must not be started again", name)
			continue
		}
		require.NotNil(t, service.HealthCheck, "service %s runs on: give it a health check", name)
		require.NotEmpty(t, service.HealthCheck.Test, "service %s runs on: give it a health check", name)
		require.Equal(t, "CMD", service.HealthCheck.Test[0], "service %s: there may be no shell in the image, write the check as a list that begins with CMD", name)
		require.Equal(t, "unless-stopped", service.Restart, "service %s shall come back after a crash", name)
	}
}

// Waiting for a service means waiting until it works, or until it is through.
func TestDependenciesWaitForTheRightThing(t *testing.T) {
	t.Parallel()
	services := load(t, exampleSettings(t)).Services
	oneShots := oneShots(services)
	for name, service := range services {
		for on, how := range service.DependsOn {
			want := types.ServiceConditionHealthy
			if slices.Contains(oneShots, on) {
				want = types.ServiceConditionCompletedSuccessfully
			}
			require.Equal(t, want, how.Condition, "service %s depends on %s", name, on)
		}
	}
}

func TestServicesAreConfined(t *testing.T) {
	t.Parallel()
	writes := []string{"temporal-ui"} // its settings, at start
	for name, service := range load(t, exampleSettings(t)).Services {
		require.NotEmpty(t, service.User, "service %s: say as which user it runs", name)
		require.NotRegexp(t, `^(root|0)(:|$)`, service.User, "service %s must not run as root", name)
		require.Equal(t, []string{"ALL"}, service.CapDrop, "service %s needs no capabilities", name)
		require.Contains(t, service.SecurityOpt, "no-new-privileges:true", "service %s", name)
		require.False(t, service.Privileged, "service %s", name)
		require.Equal(t, !slices.Contains(writes, name), service.ReadOnly, "service %s: read_only, with tmpfs for what it writes", name)
	}
	require.Regexp(t, `(?m)^USER 65532:65532$`, read(t, "Dockerfile"), "the image must not run as root")
}

// The file is read as it stands, without filling anything in.
func TestNoSecretStandsInTheFile(t *testing.T) {
	t.Parallel()
	given := regexp.MustCompile(`^\$\{[A-Z_]+(:\?.+|:-sandbox)?\}$`)
	for name, service := range load(t, nil, cli.WithInterpolation(false)).Services {
		for setting, value := range service.Environment {
			if secretName.MatchString(setting) {
				require.Regexp(t, given, *value, "service %s: %s must come from .env, as ${%s:?what to do}", name, setting, setting)
			}
			require.NotRegexp(t, `://[^:@/]+:[^$@][^@]*@`, *value, "service %s: %s holds a password; take it from .env", name, setting)
		}
	}
	for line := range strings.Lines(read(t, "deploy/env.example")) {
		setting, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if found && secretName.MatchString(setting) {
			require.Empty(t, value, "deploy/env.example: leave %s empty, it is for the reader to fill in", setting)
		}
	}
}

// Only settings that the binary reads, and only commands that it has.
func TestSettingsAndCommandsExist(t *testing.T) {
	t.Parallel()
	known := set(regexp.MustCompile(`env:"([A-Z0-9_]+)"`), read(t, "cmd/fanfare/settings.go"))
	commands := map[string]bool{}
	sources, err := filepath.Glob("../cmd/fanfare/*.go")
	require.NoError(t, err)
	for _, path := range sources {
		source, err := os.ReadFile(path)
		require.NoError(t, err)
		for command := range set(regexp.MustCompile(`Use:\s+"([a-z]+)`), string(source)) {
			commands[command] = true
		}
	}
	for name, service := range load(t, exampleSettings(t)).Services {
		if service.Build == nil {
			continue
		}
		for setting := range service.Environment {
			require.True(t, known[setting], "service %s: nothing reads %s; the settings are in cmd/fanfare/settings.go", name, setting)
		}
		require.NotEmpty(t, service.Command, "service %s: say which command of fanfare it is", name)
		require.True(t, commands[service.Command[0]], "service %s: fanfare has no command %q", name, service.Command[0])
		if check := service.HealthCheck; check != nil && check.Test[1] == "/bin/fanfare" {
			require.True(t, commands[check.Test[2]], "service %s: fanfare has no command %q", name, check.Test[2])
		}
	}
}

// Left alone every channel goes to the sandbox, and .env takes each of them elsewhere.
func TestEveryChannelIsOn(t *testing.T) {
	t.Parallel()
	settings := exampleSettings(t)
	for _, service := range []string{"server", "worker"} {
		on := load(t, settings).Services[service].Environment
		for _, base := range []string{"SENDGRID_BASE_URL", "TWILIO_BASE_URL", "FCM_BASE_URL"} {
			require.Equal(t, "http://sandbox:8025", *on[base], service)
		}
		require.Empty(t, *on["GOOGLE_APPLICATION_CREDENTIALS"], service)
	}
	example := read(t, "deploy/env.example")
	for _, setting := range []string{"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM", "TWILIO_BASE_URL", "FCM_PROJECT_ID", "FCM_BASE_URL"} {
		require.Contains(t, example, "#"+setting+"=")
		settings[setting] = "mine"
	}
	settings["GOOGLE_KEY_FILE"] = "/etc/hostname"
	worker := load(t, settings).Services["worker"]
	for setting, value := range settings {
		if given, ok := worker.Environment[setting]; ok {
			require.Equal(t, value, *given, setting)
		}
	}
	require.Equal(t, "/run/google.json", *worker.Environment["GOOGLE_APPLICATION_CREDENTIALS"])
	require.Equal(t, "/etc/hostname", worker.Volumes[0].Source)
}

func TestMountedFilesExist(t *testing.T) {
	t.Parallel()
	for name, service := range load(t, exampleSettings(t)).Services {
		for _, volume := range service.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			require.FileExists(t, volume.Source, "service %s mounts it; Docker would make an empty folder in its place", name)
			require.True(t, volume.ReadOnly, "service %s: mount %s with :ro", name, volume.Source)
		}
	}
}

// oneShots are the services that others wait for to be through.
func oneShots(services types.Services) []string {
	var names []string
	for _, service := range services {
		for on, how := range service.DependsOn {
			if how.Condition == types.ServiceConditionCompletedSuccessfully && !slices.Contains(names, on) {
				names = append(names, on)
			}
		}
	}
	return names
}

// exampleSettings are those that deploy/env.example asks the reader to fill in.
func exampleSettings(t *testing.T) map[string]string {
	t.Helper()
	settings := map[string]string{}
	for name := range set(regexp.MustCompile(`(?m)^([A-Z_]+)=$`), read(t, "deploy/env.example")) {
		settings[name] = "made-up-for-this-test"
	}
	require.NotEmpty(t, settings)
	return settings
}

func load(t *testing.T, settings map[string]string, options ...cli.ProjectOptionsFn) *types.Project {
	t.Helper()
	p, err := project(t, settings, options...)
	require.NoError(t, err)
	return p
}

func project(t *testing.T, settings map[string]string, options ...cli.ProjectOptionsFn) (*types.Project, error) {
	t.Helper()
	var env []string
	for name, value := range settings {
		env = append(env, name+"="+value)
	}
	o, err := cli.NewProjectOptions([]string{"../docker-compose.yml"}, append(options, cli.WithEnv(env))...)
	require.NoError(t, err)
	return o.LoadProject(t.Context())
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", path))
	require.NoError(t, err)
	return string(text)
}

// set is what an expression's first group matches.
func set(expression *regexp.Regexp, text string) map[string]bool {
	found := map[string]bool{}
	for _, match := range expression.FindAllStringSubmatch(text, -1) {
		found[match[1]] = true
	}
	return found
}
