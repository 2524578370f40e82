{{/* The release's name, which begins the names of its objects. */}}
{{- define "shipoff.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "shipoff.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: shipoff
{{ include "shipoff.selector" . }}
{{- end -}}

{{- define "shipoff.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "shipoff.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret with what is secret. */}}
{{- define "shipoff.secret" -}}
{{- .Values.existingSecret | default (printf "%s-secrets" (include "shipoff.name" .)) -}}
{{- end -}}

{{- define "shipoff.apiHost" -}}
{{- .Values.ingress.apiHost | default (printf "api.%s" .Values.baseDomain) -}}
{{- end -}}

{{- define "shipoff.grpcPort" -}}50051{{- end -}}
{{- define "shipoff.probePort" -}}50052{{- end -}}
{{/* Where builders that are Jobs find the build service. */}}
{{- define "shipoff.buildersPort" -}}50053{{- end -}}
{{/* The gateway's HTTP, and the edge's. */}}
{{- define "shipoff.httpPort" -}}8081{{- end -}}
{{- define "shipoff.edgePort" -}}8080{{- end -}}

{{/* Services that have a database, in their order. */}}
{{- define "shipoff.storing" -}}
{{- $found := list -}}
{{- range $name, $needs := .Files.Get "files/services.yaml" | fromYaml -}}
{{- if $needs.database }}{{ $found = append $found $name }}{{ end -}}
{{- end -}}
{{- join " " $found -}}
{{- end -}}

{{/* Values that fit together; what one value alone may be is the schema's. */}}
{{- define "shipoff.check" -}}
{{- if and (eq .Values.postgres.kind "external") (not .Values.existingSecret) }}
{{- fail "postgres.kind=external needs existingSecret: a Secret with the roles' passwords (docs/guide/cluster.md)" }}
{{- end }}
{{- if and (eq .Values.postgres.kind "external") (not .Values.postgres.external.host) }}
{{- fail "postgres.kind=external needs postgres.external.host" }}
{{- end }}
{{- if and (eq .Values.redis.kind "external") (not .Values.existingSecret) }}
{{- fail "redis.kind=external needs existingSecret: a Secret with the key redis-url" }}
{{- end }}
{{- if and (eq .Values.objects.kind "external") (not .Values.objects.external.url) }}
{{- fail "objects.kind=external needs objects.external.url, as s3://bucket/prefix" }}
{{- end }}
{{- if and (eq .Values.objects.kind "external") .Values.objects.external.keys (not .Values.existingSecret) }}
{{- fail "objects.external.keys needs existingSecret: a Secret with s3-access-key-id and s3-secret-access-key; or set it to false" }}
{{- end }}
{{- if and .Values.build.jobs.namespace (eq .Values.build.jobs.namespace .Release.Namespace) }}
{{- fail "build.jobs.namespace has to be another than the release's: builds run what people upload" }}
{{- end }}
{{- if and (eq .Values.objects.kind "folder") (ne .Values.mode "single") }}
{{- fail "objects.kind=folder needs mode=single: a folder is one pod's" }}
{{- end }}
{{- end -}}

{{- define "shipoff.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "shipoff.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What is the same in every pod's specification. */}}
{{- define "shipoff.pod" -}}
enableServiceLinks: false
securityContext:
  {{- include "shipoff.podSecurity" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "shipoff.container" -}}
image: {{ include "shipoff.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "shipoff.containerSecurity" . | nindent 2 }}
{{- end -}}

{{/* A volume of a server's: (dict "storage" … "name" …). A persistent one is the StatefulSet's own claim. */}}
{{- define "shipoff.volume" -}}
- name: data
{{- if eq .storage.kind "hostPath" }}
  hostPath: {path: {{ required "storage.kind=hostPath needs storage.path" .storage.path | quote }}, type: Directory}
{{- else if eq .storage.kind "empty" }}
  emptyDir: {sizeLimit: {{ .storage.size }}}
{{- else }}
  persistentVolumeClaim: {claimName: {{ .name }}}
{{- end }}
{{- end -}}

{{- define "shipoff.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .className }}
storageClassName: {{ . | quote }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end -}}

{{/* An environment variable of the Secret: (dict "root" $ "name" … "key" …). */}}
{{- define "shipoff.secretEnv" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ include "shipoff.secret" .root }}, key: {{ .key }}}}
{{- end -}}

{{/* A service's own database: (dict "root" $ "service" …). The password is put together with the rest by the kubelet. */}}
{{- define "shipoff.databaseEnv" -}}
{{- $external := eq .root.Values.postgres.kind "external" }}
{{- $host := ternary .root.Values.postgres.external.host (printf "%s-postgres.%s.svc" (include "shipoff.name" .root) .root.Release.Namespace) $external }}
{{- $port := ternary (int .root.Values.postgres.external.port) 5432 $external }}
{{- $parameters := ternary .root.Values.postgres.external.parameters "" $external }}
{{- $upper := upper .service }}
{{ include "shipoff.secretEnv" (dict "root" .root "name" (printf "%s_PASSWORD" $upper) "key" (printf "%s-password" .service)) }}
- name: SHIPOFF_{{ $upper }}_DATABASE_URL
  value: {{ printf "postgresql+asyncpg://%s:$(%s_PASSWORD)@%s:%d/%s%s" .service $upper $host $port .service (ternary (printf "?%s" $parameters) "" (ne $parameters "")) | quote }}
{{- end -}}

{{- define "shipoff.redisEnv" -}}
{{- if eq .Values.redis.kind "external" }}
{{ include "shipoff.secretEnv" (dict "root" . "name" "SHIPOFF_REDIS_URL" "key" "redis-url") }}
{{- else }}
{{ include "shipoff.secretEnv" (dict "root" . "name" "VALKEY_PASSWORD" "key" "valkey-password") }}
- name: SHIPOFF_REDIS_URL
  value: {{ printf "redis://:$(VALKEY_PASSWORD)@%s-valkey.%s.svc:6379/0" (include "shipoff.name" .) .Release.Namespace | quote }}
{{- end }}
{{- end -}}

{{- define "shipoff.objectsEnv" -}}
{{- if eq .Values.objects.kind "folder" }}
- {name: SHIPOFF_OBJECTS_URL, value: "file:///var/lib/shipoff/data/objects"}
{{- else if eq .Values.objects.kind "external" }}
{{- with .Values.objects.external }}
- {name: SHIPOFF_OBJECTS_URL, value: {{ .url | quote }}}
- {name: SHIPOFF_OBJECTS_REGION, value: {{ .region | quote }}}
{{- if .endpoint }}
- {name: SHIPOFF_OBJECTS_ENDPOINT, value: {{ .endpoint | quote }}}
{{- end }}
{{- end }}
{{- else }}
- {name: SHIPOFF_OBJECTS_URL, value: "s3://shipoff/objects"}
- {name: SHIPOFF_OBJECTS_ENDPOINT, value: "http://{{ include "shipoff.name" . }}-objects.{{ .Release.Namespace }}.svc:9000"}
{{- end }}
{{- if or (eq .Values.objects.kind "inChart") (and (eq .Values.objects.kind "external") .Values.objects.external.keys) }}
{{ include "shipoff.objectKeysEnv" . }}
{{- end }}
{{- end -}}

{{- define "shipoff.objectKeysEnv" -}}
{{ include "shipoff.secretEnv" (dict "root" . "name" "SHIPOFF_OBJECTS_ACCESS_KEY_ID" "key" "s3-access-key-id") }}
{{ include "shipoff.secretEnv" (dict "root" . "name" "SHIPOFF_OBJECTS_SECRET_ACCESS_KEY" "key" "s3-secret-access-key") }}
{{- end -}}

{{/* Settings that follow from the chart's values, by service; the operator's own come after and win. */}}
{{- define "shipoff.derived" -}}
{{- $ := .root -}}
{{- $all := dict "SHIPOFF_HOME" "/var/lib/shipoff/data" "SHIPOFF_BASE_DOMAIN" $.Values.baseDomain -}}
{{- $tls := $.Values.ingress.tls.enabled -}}
{{- if or (eq .service "gateway") (eq .service "single") -}}
{{- $_ := set $all "SHIPOFF_GATEWAY_HTTP_LISTEN" (printf "0.0.0.0:%s" (include "shipoff.httpPort" $)) -}}
{{- $_ := set $all "SHIPOFF_GATEWAY_PUBLIC_SCHEME" (ternary "https" "http" $tls) -}}
{{- $_ := set $all "SHIPOFF_GATEWAY_PUBLIC_PORT" (ternary "443" "80" $tls) -}}
{{- $_ := set $all "SHIPOFF_GATEWAY_TRUSTED_PROXIES" (join "," $.Values.ingress.trustedProxies) -}}
{{- end -}}
{{- if or (eq .service "cdn") (eq .service "single") -}}
{{- $_ := set $all "SHIPOFF_HTTP_PORT" (include "shipoff.edgePort" $) -}}
{{- $_ := set $all "SHIPOFF_CDN_RESTORE_FIRST" "true" -}}
{{- end -}}
{{- if has .service (list "runtime" "orchestrator" "single") -}}
{{- $_ := set $all "SHIPOFF_RUNTIME_DRIVER" "kubernetes" -}}
{{- end -}}
{{- if or (eq .service "runtime") (eq .service "single") -}}
{{- $_ := set $all "SHIPOFF_KUBERNETES_PLATFORM" $.Values.platformName -}}
{{- $_ := set $all "SHIPOFF_KUBERNETES_INGRESS_CLASS" (ternary $.Values.ingress.className "" $.Values.ingress.enabled) -}}
{{- $_ := set $all "SHIPOFF_KUBERNETES_INGRESS_NAMESPACE" $.Values.ingress.namespace -}}
{{- $_ := set $all "SHIPOFF_KUBERNETES_CLUSTER_ISSUER" (ternary $.Values.ingress.tls.clusterIssuer "" $tls) -}}
{{- end -}}
{{- if and $.Values.build.jobs.namespace (or (eq .service "build") (eq .service "single")) -}}
{{- with $.Values.build.jobs -}}
{{- $_ := set $all "SHIPOFF_KUBERNETES_PLATFORM" $.Values.platformName -}}
{{- $_ := set $all "SHIPOFF_BUILD_BUILDERS" "kubernetes" -}}
{{- $_ := set $all "SHIPOFF_BUILD_JOB_NAMESPACE" .namespace -}}
{{- $_ := set $all "SHIPOFF_BUILD_JOB_IMAGE" (.image | default (include "shipoff.image" $)) -}}
{{- $_ := set $all "SHIPOFF_BUILD_JOB_PULL_SECRET" .pullSecret -}}
{{- $_ := set $all "SHIPOFF_BUILD_BUILDER_LISTEN" (printf "0.0.0.0:%s" (include "shipoff.buildersPort" $)) -}}
{{- $service := ternary "single" "build" (eq $.Values.mode "single") -}}
{{- $_ := set $all "SHIPOFF_BUILD_JOB_ADDRESS" (printf "%s-%s.%s.svc:%s" (include "shipoff.name" $) $service $.Release.Namespace (include "shipoff.buildersPort" $)) -}}
{{- end -}}
{{- end -}}
{{- if ne .service "single" -}}
{{- $_ := set $all (printf "SHIPOFF_%s_LISTEN" (upper .service)) (printf "0.0.0.0:%s" (include "shipoff.grpcPort" $)) -}}
{{- $_ := set $all "SHIPOFF_PROBE_LISTEN" (printf "0.0.0.0:%s" (include "shipoff.probePort" $)) -}}
{{- range $called := get ($.Files.Get "files/callgraph.yaml" | fromYaml) .service | default list -}}
{{- $_ := set $all (printf "SHIPOFF_%s_ADDRESS" (upper $called)) (printf "%s-%s.%s.svc:%s" (include "shipoff.name" $) $called $.Release.Namespace (include "shipoff.grpcPort" $)) -}}
{{- end -}}
{{- if $.Values.mtls.enabled -}}
{{- $_ := set $all "SHIPOFF_TLS_CERTIFICATE" "/etc/shipoff/tls/tls.crt" -}}
{{- $_ := set $all "SHIPOFF_TLS_KEY" "/etc/shipoff/tls/tls.key" -}}
{{- $_ := set $all "SHIPOFF_TLS_CA" "/etc/shipoff/tls/ca.crt" -}}
{{- end -}}
{{- end -}}
{{- $own := dict -}}
{{- if ne .service "single" }}{{ $own = (get $.Values.services .service).settings | default dict }}{{ end -}}
{{- toYaml (mergeOverwrite $all (deepCopy $.Values.settings) (deepCopy $own)) -}}
{{- end -}}

{{/* A setting as text: a large number is no 8.5e+09. */}}
{{- define "shipoff.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}{{ printf "%.0f" . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{/* The environment of a service's container: (dict "root" $ "service" …). */}}
{{- define "shipoff.environment" -}}
{{- $needs := get (.root.Files.Get "files/services.yaml" | fromYaml) .service | default dict -}}
{{- range $name, $value := include "shipoff.derived" . | fromYaml }}
- {name: {{ $name }}, value: {{ include "shipoff.text" $value | quote }}}
{{- end }}
- name: SHIPOFF_POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: SHIPOFF_POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- range $name, $key := $needs.secrets }}
{{ include "shipoff.secretEnv" (dict "root" $.root "name" $name "key" $key) }}
{{- end }}
{{- if $needs.database }}
{{- include "shipoff.databaseEnv" . }}
{{- end }}
{{- if $needs.redis }}
{{- include "shipoff.redisEnv" .root }}
{{- end }}
{{- if $needs.objects }}
{{- include "shipoff.objectsEnv" .root }}
{{- end }}
{{- end -}}

{{/* Waits for the databases in this namespace and migrates them: (dict "root" $ "services" (list …)). */}}
{{- define "shipoff.databaseReady" -}}
- name: database
  {{- include "shipoff.container" .root | nindent 2 }}
  args: [migrate, {{ join ", " .services }}, --wait, "300"]
  env:
    - {name: SHIPOFF_HOME, value: /tmp}
    {{- range .services }}
    {{- include "shipoff.databaseEnv" (dict "root" $.root "service" .) | nindent 4 }}
    {{- end }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
  resources: {requests: {cpu: 25m, memory: 64Mi}, limits: {memory: 256Mi}}
{{- end -}}

{{/* Caddy, beside the cdn: they share a folder with the sites and the socket of Caddy's admin interface. */}}
{{- define "shipoff.edgeContainer" -}}
- name: edge
  {{- include "shipoff.container" . | nindent 2 }}
  args: [backing, caddy]
  env:
    - {name: SHIPOFF_HOME, value: /var/lib/shipoff/data}
    - {name: SHIPOFF_HTTP_PORT, value: "{{ include "shipoff.edgePort" . }}"}
  ports:
    - {name: edge, containerPort: {{ include "shipoff.edgePort" . }}}
  # So long others may still be sent here.
  lifecycle: {preStop: {sleep: {seconds: 5}}}
  startupProbe: {tcpSocket: {port: edge}, periodSeconds: 1, failureThreshold: 60}
  readinessProbe: {tcpSocket: {port: edge}, periodSeconds: 5}
  livenessProbe: {tcpSocket: {port: edge}, periodSeconds: 20}
  resources: {{ toJson .Values.edge.resources }}
  volumeMounts:
    - {name: data, mountPath: /var/lib/shipoff}
    - {name: tmp, mountPath: /tmp}
{{- end -}}
