{{- /* The pod of a job that runs the binary: (dict "root" . "name" "verify" "args" (list "verify" "--json")) */ -}}
{{- define "parallax.jobPod" -}}
metadata:
  labels:
    app.kubernetes.io/name: {{ .root.Chart.Name }}-{{ .name }}
    app.kubernetes.io/instance: {{ .root.Release.Name }}
    {{- include "parallax.jobLabels" .root | nindent 4 }}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .name }}
      image: {{ include "parallax.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args:
        {{- toYaml .args | nindent 8 }}
      env:
        {{- include "parallax.redisEnv" .root | nindent 8 }}
        {{- include "parallax.postgresEnv" (dict "root" .root "role" .root.Values.postgres "file" "postgres-serve-password") | nindent 8 }}
        - name: PARALLAX_INSTANCE
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- include "parallax.commonEnv" .root | nindent 8 }}
      resources:
        {{- toYaml .root.Values.jobs.resources | nindent 8 }}
      securityContext:
        {{- include "parallax.securityContext" .root | nindent 8 }}
      volumeMounts:
        {{- include "parallax.volumeMounts" .root | nindent 8 }}
  volumes:
    {{- include "parallax.jobVolumes" .root | nindent 4 }}
{{- end }}

{{- /* On the pods that are ours alone, for which the NetworkPolicy may also say where they go. */ -}}
{{- define "parallax.jobLabels" -}}
parallax/job: {{ .Release.Name | quote }}
{{- end }}
