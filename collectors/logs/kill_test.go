package logs

func agentProcess(dir string) {}
