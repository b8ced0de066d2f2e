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

{{- /* On every pod that the sidecar stands in: Service, ServiceMonitor, NetworkPolicy and PodDisruptionBudget look for it. */ -}}
{{- define "parallax.podLabels" -}}
parallax/sidecar: {{ .Release.Name | quote }}
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

{{- /* What whoever acts as the role that owns the tables mounts: the migration and the backup. */ -}}
{{- define "parallax.migrateSecrets" -}}
{{- with .Values.migrate.passwordSecret }}
{{- if .name }}
{{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "postgres-migrate-password") | nindent 0 }}
{{- end }}
{{- end }}
{{- with .Values.postgres.caSecret }}
{{- if .name }}
{{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "postgres-ca") | nindent 0 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "parallax.migrateVolume" -}}
- name: parallax-secrets
  projected:
    defaultMode: 0444
    sources:
      {{- with include "parallax.migrateSecrets" . | trim }}
      {{- . | nindent 6 }}
      {{- else }} []
      {{- end }}
{{- end }}
