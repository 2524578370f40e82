"""The program that runs one build: fetch the source, plan, run the steps, pack, upload.

Started by the build service with its assignment on standard input (never in arguments or the environment), as
`python -m shipoff.builder`. It talks to BuilderService only, over one resumable session, and outlives a restart of the
service. What a user wrote runs under the tenant's account, where there is one; whatever a build leaves running is found
(this process is the subreaper of all of it) and killed.

It holds: no line of a log is lost or repeated while the session breaks and resumes; no step outlives the build; no secret
of the project leaves in a log line; no file is read or written with more rights than the tenant has.
"""
