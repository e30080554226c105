/*
 * What an MPI has to do, in one program: `mpi_check MODE`.
 *
 *   check     collectives, one-sided access, large messages: "ok RANKS LIBRARY"
 *   peer      each rank reads the next one's memory by process_vm_readv(2)
 *   die       rank 1 kills itself while the others wait
 *   pingpong  latency in us of 8 bytes, bandwidth in MB/s of 4 MiB, ranks 0 and 1
 *   stencil   seconds for steps of a two-dimensional hydrodynamic stencil
 *   start     the time of day in main(), in ns, without MPI
 */
#define _GNU_SOURCE
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define LARGE (4 << 20)

static int rank, size;

static void fail(const char *what)
{
	fprintf(stderr, "rank %d: %s\n", rank, what);
	MPI_Abort(MPI_COMM_WORLD, 3);
}

static void collectives(void)
{
	int sum = 0, expected = size * (size - 1) / 2;
	MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	if (sum != expected)
		fail("allreduce");
	int *all = malloc(sizeof(int) * size), *back = malloc(sizeof(int) * size);
	for (int i = 0; i < size; i++)
		all[i] = rank * 1000 + i;
	MPI_Alltoall(all, 1, MPI_INT, back, 1, MPI_INT, MPI_COMM_WORLD);
	for (int i = 0; i < size; i++)
		if (back[i] != i * 1000 + rank)
			fail("alltoall");
	free(all);
	free(back);
}

static void one_sided(void)
{
	/* Not MPI_Win_allocate: Debian's MPICH 4.0.2 loses puts into its windows. */
	int window_memory[2] = { 0, 0 }, one = 1;
	MPI_Win window;
	MPI_Win_create(window_memory, sizeof window_memory, sizeof(int), MPI_INFO_NULL, MPI_COMM_WORLD, &window);
	MPI_Win_fence(0, window);
	MPI_Put(&rank, 1, MPI_INT, (rank + 1) % size, 0, 1, MPI_INT, window);
	MPI_Accumulate(&one, 1, MPI_INT, 0, 1, 1, MPI_INT, MPI_SUM, window);
	MPI_Win_fence(0, window);
	if (window_memory[0] != (rank + size - 1) % size)
		fail("put");
	if (rank == 0 && window_memory[1] != size)
		fail("accumulate");
	MPI_Win_free(&window);
}

static void large(void)
{
	char *out = malloc(LARGE), *in = malloc(LARGE);
	memset(out, 'a' + rank % 26, LARGE);
	MPI_Sendrecv(out, LARGE, MPI_CHAR, (rank + 1) % size, 7, in, LARGE, MPI_CHAR,
		     (rank + size - 1) % size, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	if (in[0] != 'a' + (rank + size - 1) % size % 26 || in[LARGE - 1] != in[0])
		fail("large message");
	free(out);
	free(in);
}

struct place {
	long pid;
	void *address;
};

static void peer(void)
{
	static volatile int secret;
	secret = 4242 + rank;
	struct place own = { getpid(), (void *)&secret }, other;
	MPI_Sendrecv(&own, sizeof own, MPI_BYTE, (rank + size - 1) % size, 1, &other, sizeof other,
		     MPI_BYTE, (rank + 1) % size, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	int read = 0;
	struct iovec here = { &read, sizeof read }, there = { other.address, sizeof read };
	if (process_vm_readv(other.pid, &here, 1, &there, 1, 0) != sizeof read)
		fail("process_vm_readv");
	if (read != 4242 + (rank + 1) % size)
		fail("wrong memory");
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0)
		printf("peers ok %d\n", size);
}

static double exchange(char *buffer, int bytes, int rounds)
{
	MPI_Barrier(MPI_COMM_WORLD);
	double start = MPI_Wtime();
	for (int i = 0; i < rounds; i++) {
		if (rank == 0) {
			MPI_Send(buffer, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
			MPI_Recv(buffer, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		} else if (rank == 1) {
			MPI_Recv(buffer, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			MPI_Send(buffer, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
		}
	}
	return (MPI_Wtime() - start) / rounds / 2;
}

static void pingpong(void)
{
	char *buffer = calloc(1, LARGE);
	exchange(buffer, 8, 2000);
	double latency = exchange(buffer, 8, 100000);
	exchange(buffer, LARGE, 20);
	double transfer = exchange(buffer, LARGE, 500);
	if (rank == 0)
		printf("latency_us %.4f bandwidth_mb %.1f\n", latency * 1e6, LARGE / transfer / 1e6);
	free(buffer);
}

/* Rows of a grid, one of the neighbours' above and one below. */
static void stencil(void)
{
	enum { width = 1024, rows = 512, steps = 300 };
	double *now = calloc((rows + 2) * width, sizeof *now), *next = calloc((rows + 2) * width, sizeof *now);
	for (int i = 0; i < (rows + 2) * width; i++)
		now[i] = (i * 31 + rank * 17) % 101 * 0.01 + 1;
	int up = rank ? rank - 1 : MPI_PROC_NULL, down = rank + 1 < size ? rank + 1 : MPI_PROC_NULL;
	MPI_Barrier(MPI_COMM_WORLD);
	double start = MPI_Wtime(), step = 0.1;
	for (int t = 0; t < steps; t++) {
		MPI_Sendrecv(now + width, width, MPI_DOUBLE, up, 0, now + (rows + 1) * width, width, MPI_DOUBLE,
			     down, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		MPI_Sendrecv(now + rows * width, width, MPI_DOUBLE, down, 1, now, width, MPI_DOUBLE, up, 1,
			     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		double largest = 0;
		for (int y = 1; y <= rows; y++)
			for (int x = 1; x < width - 1; x++) {
				double *at = now + y * width + x;
				double flux = at[-1] + at[1] + at[-width] + at[width] - 4 * at[0];
				double value = at[0] + step * flux / (1 + at[0] * at[0]);
				next[y * width + x] = value;
				if (value > largest)
					largest = value;
			}
		/* The step that all may take, as an explicit scheme needs it. */
		double global;
		MPI_Allreduce(&largest, &global, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
		step = 0.2 / (1 + global);
		double *swap = now;
		now = next;
		next = swap;
	}
	double seconds = MPI_Wtime() - start, longest;
	MPI_Reduce(&seconds, &longest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
	if (rank == 0)
		printf("seconds %.6f\n", longest);
	free(now);
	free(next);
}

int main(int count, char **words)
{
	const char *mode = count > 1 ? words[1] : "check";
	if (!strcmp(mode, "start")) {
		struct timespec now;
		clock_gettime(CLOCK_REALTIME, &now);
		printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
		return 0;
	}
	MPI_Init(&count, &words);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	if (!strcmp(mode, "check")) {
		char library[MPI_MAX_LIBRARY_VERSION_STRING];
		int length;
		collectives();
		one_sided();
		large();
		MPI_Get_library_version(library, &length);
		library[strcspn(library, "\n,")] = 0;
		MPI_Barrier(MPI_COMM_WORLD);
		if (rank == 0)
			printf("ok %d %s\n", size, library);
	} else if (!strcmp(mode, "peer")) {
		peer();
	} else if (!strcmp(mode, "die")) {
		if (rank == 1)
			raise(SIGKILL);
		MPI_Barrier(MPI_COMM_WORLD);
	} else if (!strcmp(mode, "pingpong")) {
		pingpong();
	} else if (!strcmp(mode, "stencil")) {
		stencil();
	} else {
		fail("no such mode");
	}
	MPI_Finalize();
	return 0;
}
