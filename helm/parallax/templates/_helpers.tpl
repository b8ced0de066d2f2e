{{- define "parallax.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "parallax.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "parallax.labels" -}}
{{ include "parallax.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "parallax.image" -}}
{{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) | quote }}
{{- end }}

{{- define "parallax.securityContext" -}}
runAsNonRoot: true
runAsUser: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* Where Postgres is. The role and its password differ between serving and migrating: (dict "root" . "role" .Values.postgres "file" "...") */ -}}
{{- define "parallax.postgresEnv" -}}
{{- $postgres := .root.Values.postgres -}}
- name: POSTGRES_HOST
  value: {{ $postgres.host | quote }}
- name: POSTGRES_PORT
  value: {{ $postgres.port | quote }}
- name: POSTGRES_DB
  value: {{ $postgres.database | quote }}
- name: POSTGRES_USER
  value: {{ .role.user | quote }}
- name: POSTGRES_SSLMODE
  value: {{ $postgres.sslmode | quote }}
{{- if .role.passwordSecret.name }}
- name: POSTGRES_PASSWORD_FILE
  value: /etc/parallax/secrets/{{ .file }}
{{- end }}
{{- if $postgres.caSecret.name }}
- name: POSTGRES_SSLROOTCERT
  value: /etc/parallax/secrets/postgres-ca
{{- end }}
{{- end }}

{{- define "parallax.redisEnv" -}}
- name: PARALLAX_REDIS_HOST
  value: {{ .Values.redis.host | quote }}
- name: PARALLAX_REDIS_PORT
  value: {{ .Values.redis.port | quote }}
- name: PARALLAX_REDIS_DB
  value: {{ .Values.redis.database | quote }}
- name: PARALLAX_REDIS_ENABLE_TLS
  value: {{ .Values.redis.tls.enabled | quote }}
{{- with .Values.redis.username }}
- name: PARALLAX_REDIS_USERNAME
  value: {{ . | quote }}
{{- end }}
{{- if .Values.redis.passwordSecret.name }}
- name: PARALLAX_REDIS_PASSWORD_FILE
  value: /etc/parallax/secrets/redis-password
{{- end }}
{{- if .Values.redis.tls.caSecret.name }}
- name: PARALLAX_REDIS_CA_FILE
  value: /etc/parallax/secrets/redis-ca
{{- end }}
{{- end }}

{{- /* The sidecar's container, for a list of initContainers. Pair it with "parallax.volumes". */ -}}
{{- define "parallax.sidecar" -}}
- name: parallax
  image: {{ include "parallax.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: ["serve"]
  # What makes it a sidecar: it starts before the application, runs beside it, and stops after it.
  restartPolicy: Always
  env:
    {{- include "parallax.redisEnv" . | nindent 4 }}
    - name: ENABLE_POSTGRES
      value: {{ .Values.postgres.enabled | quote }}
    {{- if .Values.postgres.enabled }}
    {{- include "parallax.postgresEnv" (dict "root" . "role" .Values.postgres "file" "postgres-serve-password") | nindent 4 }}
    - name: POSTGRES_POOL_SIZE
      value: {{ .Values.postgres.poolSize | quote }}
    - name: POSTGRES_IDLE_TIMEOUT
      value: {{ int64 .Values.postgres.idleTimeoutMs | quote }}
    {{- end }}
    - name: PARALLAX_HTTP_LISTEN
      value: {{ printf "127.0.0.1:%v" .Values.doors.http.port | quote }}
    - name: PARALLAX_ADMIN_LISTEN
      value: {{ printf "0.0.0.0:%v" .Values.doors.admin.port | quote }}
    - name: PARALLAX_ADMIN_OPERATOR_TOKEN_FILE
      value: /etc/parallax/secrets/operator-token
    {{- if .Values.doors.admin.tokensSecret.viewerKey }}
    - name: PARALLAX_ADMIN_VIEWER_TOKEN_FILE
      value: /etc/parallax/secrets/viewer-token
    {{- end }}
    {{- if .Values.doors.admin.tokensSecret.secretsKey }}
    - name: PARALLAX_ADMIN_SECRETS_TOKEN_FILE
      value: /etc/parallax/secrets/secrets-token
    {{- end }}
    - name: PARALLAX_INSTANCE
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
    - name: PARALLAX_TIMEZONE_OFFSET
      value: {{ .Values.timezoneOffset | quote }}
    {{- if .Values.catalog }}
    - name: PARALLAX_CATALOG
      value: /etc/parallax/catalog/catalog.toml
    {{- end }}
    - name: PARALLAX_LOG
      value: {{ .Values.log.filter | quote }}
    - name: PARALLAX_LOG_FORMAT
      value: {{ .Values.log.format | quote }}
    {{- range $name, $value := .Values.extraEnv }}
    - name: {{ $name }}
      value: {{ $value | quote }}
    {{- end }}
  ports:
    - name: admin
      containerPort: {{ .Values.doors.admin.port }}
  startupProbe:
    httpGet: &ready
      path: /readyz
      port: admin
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet: *ready
    periodSeconds: 5
  livenessProbe:
    httpGet:
      path: /livez
      port: admin
    periodSeconds: 10
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    {{- include "parallax.securityContext" . | nindent 4 }}
  volumeMounts:
    - name: parallax-secrets
      mountPath: /etc/parallax/secrets
      readOnly: true
    {{- if .Values.catalog }}
    - name: parallax-catalog
      mountPath: /etc/parallax/catalog
      readOnly: true
    {{- end }}
{{- end }}

{{- define "parallax.secretFile" -}}
- secret:
    name: {{ .name | quote }}
    items:
      - key: {{ .key | quote }}
        path: {{ .file }}
{{- end }}

{{- define "parallax.volumes" -}}
- name: parallax-secrets
  projected:
    defaultMode: 0444
    sources:
      {{- $tokens := .Values.doors.admin.tokensSecret }}
      {{- include "parallax.secretFile" (dict "name" $tokens.name "key" $tokens.operatorKey "file" "operator-token") | nindent 6 }}
      {{- with $tokens.viewerKey }}
      {{- include "parallax.secretFile" (dict "name" $tokens.name "key" . "file" "viewer-token") | nindent 6 }}
      {{- end }}
      {{- with $tokens.secretsKey }}
      {{- include "parallax.secretFile" (dict "name" $tokens.name "key" . "file" "secrets-token") | nindent 6 }}
      {{- end }}
      {{- with .Values.redis.passwordSecret }}
      {{- if .name }}
      {{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "redis-password") | nindent 6 }}
      {{- end }}
      {{- end }}
      {{- with .Values.redis.tls.caSecret }}
      {{- if .name }}
      {{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "redis-ca") | nindent 6 }}
      {{- end }}
      {{- end }}
      {{- if and .Values.postgres.enabled .Values.postgres.passwordSecret.name }}
      {{- with .Values.postgres.passwordSecret }}
      {{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "postgres-serve-password") | nindent 6 }}
      {{- end }}
      {{- end }}
      {{- if and .Values.postgres.enabled .Values.postgres.caSecret.name }}
      {{- with .Values.postgres.caSecret }}
      {{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "postgres-ca") | nindent 6 }}
      {{- end }}
      {{- end }}
{{- if .Values.catalog }}
- name: parallax-catalog
  configMap:
    name: {{ include "parallax.name" . }}-catalog
{{- end }}
{{- end }}
